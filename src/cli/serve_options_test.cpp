#include "cli/serve_options.h"

#include <gtest/gtest.h>

namespace heddle::cli {
namespace {

Result<ResolvedOptions> from_config(const std::string& text) {
  HEDDLE_TRY(auto values, parse_config(text, "serve.toml"));
  return resolve_options({{"serve.toml", std::move(values)}});
}

std::string error_of(const std::string& text) {
  const auto resolved = from_config(text);
  return resolved ? "accepted" : resolved.error().message;
}

TEST(ServeOptions, FlagBeatsVariableBeatsFileBeatsDefault) {
  const auto& table = serve_option_table();
  OptionValues flags(table.size());
  auto environment = parse_environment({"HEDDLE_PORT=2", "HEDDLE_MAX_SEQUENCES=20", "PATH=x"});
  auto file = parse_config("port = 3\nmax_sequences = 30\nmax_waiting = 40\n", "f");
  ASSERT_TRUE(environment && file);
  for (size_t i = 0; i < table.size(); ++i)
    if (table[i].name == "port") flags[i] = ServeOption::Values{"1"};
  const auto resolved =
      resolve_options({{"flag", flags}, {"environment", *environment}, {"f", *file}});
  ASSERT_TRUE(resolved.has_value()) << resolved.error().message;
  EXPECT_EQ(resolved->options.server.http.port, 1);
  EXPECT_EQ(resolved->options.engine.scheduler.max_sequences, 20);
  EXPECT_EQ(resolved->options.engine.max_waiting, 40);
  EXPECT_EQ(resolved->options.engine.scheduler.step_tokens, 512);
}

TEST(ServeOptions, TomlAndJsonSayTheSame) {
  const auto toml = from_config(
      "# a comment\nmodel = \"m.gguf\"\nport = 9\nprefix_cache = false\nstate_gib = 1.5\n"
      "api_key = [\"a\", \"b\"]\nrequest_timeout = 2.5\n");
  const auto json = from_config(
      R"({"model": "m.gguf", "port": 9, "prefix_cache": false, "state_gib": 1.5,
          "api_key": ["a", "b"], "request_timeout": 2.5})");
  for (const auto* resolved : {&toml, &json}) {
    ASSERT_TRUE(resolved->has_value()) << resolved->error().message;
    const ServeOptions& options = (*resolved)->options;
    EXPECT_EQ(options.model, "m.gguf");
    EXPECT_EQ(options.server.http.port, 9);
    EXPECT_FALSE(options.engine.prefix_cache);
    EXPECT_EQ(options.state_gib, 1.5);
    EXPECT_EQ(options.server.api_keys, (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(options.server.request_timeout.count(), 2500);
  }
}

TEST(ServeOptions, UnknownKeysAreRefusedWithTheNearest) {
  EXPECT_NE(error_of("prot = 1\n").find("did you mean 'port'"), std::string::npos)
      << error_of("prot = 1\n");
  EXPECT_NE(error_of(R"({"max_seqences": 3})").find("'max_sequences'"), std::string::npos);
  EXPECT_NE(error_of("[serve]\nport = 1\n").find("serve.port"), std::string::npos);
  EXPECT_NE(error_of("zzzzzzzzzzzzzzzzzzzz = 1\n").find("unknown key"), std::string::npos);
  EXPECT_FALSE(parse_environment({"HEDDLE_PROT=1"}).has_value());
  // Other people's variables, and what Kubernetes sets for a service of our name.
  EXPECT_TRUE(
      parse_environment({"HEDDLE_SERVICE_HOST=1", "HEDDLE_PORT=tcp://10.0.0.1:80"}).has_value());
}

TEST(ServeOptions, BadValuesSayWhatIsExpected) {
  EXPECT_NE(error_of("port = 99999\n").find("from 0 to 65535"), std::string::npos);
  EXPECT_NE(error_of("port = 1.5\n").find("a whole number"), std::string::npos);
  EXPECT_NE(error_of("port = [1, 2]\n").find("single value"), std::string::npos);
  EXPECT_NE(error_of("dtype = \"f64\"\n").find("'auto', 'f32'"), std::string::npos);
  EXPECT_NE(error_of("prefix_cache = \"maybe\"\n").find("true or false"), std::string::npos);
  EXPECT_NE(error_of("request_timeout = nan\n").find("a number"), std::string::npos);
  EXPECT_NE(error_of("name = \"a\\qb\"\n").find("serve.toml:1: "), std::string::npos);
  EXPECT_NE(error_of("port = 1\nport = 2\n").find("serve.toml:2: "), std::string::npos);
  EXPECT_NE(error_of("port = 1979-05-27\n").find("a number"), std::string::npos);
  EXPECT_NE(error_of("{").find("JSON: byte "), std::string::npos);
  EXPECT_NE(error_of(R"({"port": {"a": 1}})").find("a number"), std::string::npos);
}

TEST(ServeOptions, TextsInTomlHaveEscapes) {
  const auto resolved = from_config("model = 'C:\\models\\a'\nname = \"a\\\\b \\u00e9\\t\\\"\"\n");
  ASSERT_TRUE(resolved.has_value()) << resolved.error().message;
  EXPECT_EQ(resolved->options.model, "C:\\models\\a");
  EXPECT_EQ(resolved->options.name, "a\\b \u00e9\t\"");
}

TEST(ServeOptions, PrintedConfigurationGivesItselfAgain) {
  const auto first = from_config(
      "port = 77\nlog_format = \"json\"\nname = \"'a\\\"\\\\\\n\\u0001\"\nshared_cache = true\n");
  ASSERT_TRUE(first.has_value()) << first.error().message;
  const std::string text = config_text(*first);
  const auto second = from_config(text);
  ASSERT_TRUE(second.has_value()) << second.error().message << text;
  EXPECT_EQ(second->options.server.http.port, 77);
  const auto& table = serve_option_table();
  for (const ServeOption& option : table)
    EXPECT_EQ(option.get(first->options), option.get(second->options)) << option.name;
}

TEST(ServeOptions, PrintedConfigurationHidesKeys) {
  const auto resolved = from_config("api_key = [\"very-secret\"]\n");
  ASSERT_TRUE(resolved.has_value());
  EXPECT_EQ(config_text(*resolved).find("very-secret"), std::string::npos);
}

TEST(ServeOptions, EveryOptionHasOnePlace) {
  std::set<std::string> seen;
  for (const ServeOption& option : serve_option_table()) {
    EXPECT_TRUE(seen.insert(option.name).second) << option.name;
    EXPECT_FALSE(option.help.empty());
    // Setting what get() says changes nothing: both name the same member.
    ServeOptions options;
    const auto values = option.get(options);
    option.set(options, values);
    EXPECT_EQ(option.get(options), values) << option.name;
  }
}

TEST(ServeOptions, DocumentationHasTheTable) {
  const auto page = read_text_file(HEDDLE_SOURCE_DIR "/docs/server.md");
  ASSERT_TRUE(page.has_value()) << page.error().message;
  EXPECT_NE(page->find(options_markdown()), std::string::npos)
      << "docs/server.md should have this table:\n"
      << options_markdown();
}

}  // namespace
}  // namespace heddle::cli
