#include "cli/serve_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

namespace heddle::cli {
namespace {

using Kind = ServeOption::Kind;
using Values = ServeOption::Values;
using Milliseconds = std::chrono::milliseconds;

std::string upper_key(const std::string& name, char (*change)(char)) {
  std::string result;
  for (const char c : name) result += c == '-' ? '_' : change(c);
  return result;
}

char same(char c) { return c; }
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

std::string number_text(double value) { return fmt::format("{}", value); }

double to_number(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

// Builders: where a value lives is a function from the options to a reference.
template <class Place>
ServeOption text_option(const char* group, const char* name, const char* help, Place place,
                        std::vector<std::string> choices = {}) {
  ServeOption option;
  option.group = group;
  option.name = name;
  option.help = help;
  option.choices = std::move(choices);
  option.metavar = "TEXT";
  option.set = [place](ServeOptions& o, const Values& v) { place(o) = v.at(0); };
  option.get = [place](const ServeOptions& o) {
    return Values{place(const_cast<ServeOptions&>(o))};
  };
  return option;
}

template <class Place>
ServeOption integer_option(const char* group, const char* name, const char* help, Place place,
                           double low, double high) {
  ServeOption option =
      text_option(group, name, help, [](ServeOptions& o) -> std::string& { return o.name; });
  option.kind = Kind::integer;
  option.low = low;
  option.high = high;
  option.metavar = "N";
  option.set = [place](ServeOptions& o, const Values& v) {
    auto& target = place(o);
    target = static_cast<std::remove_reference_t<decltype(target)>>(
        std::strtoll(v.at(0).c_str(), nullptr, 10));
  };
  option.get = [place](const ServeOptions& o) {
    return Values{std::to_string(place(const_cast<ServeOptions&>(o)))};
  };
  return option;
}

template <class Place>
ServeOption number_option(const char* group, const char* name, const char* help, Place place,
                          double low, double high) {
  ServeOption option = integer_option(
      group, name, help, [](ServeOptions& o) -> int& { return o.load.threads; }, low, high);
  option.kind = Kind::number;
  option.metavar = "X";
  option.set = [place](ServeOptions& o, const Values& v) { place(o) = to_number(v.at(0)); };
  option.get = [place](const ServeOptions& o) {
    return Values{number_text(place(const_cast<ServeOptions&>(o)))};
  };
  return option;
}

// Given in seconds, kept in milliseconds.
template <class Place>
ServeOption seconds_option(const char* group, const char* name, const char* help, Place place) {
  ServeOption option = number_option(
      group, name, help, [](ServeOptions& o) -> double& { return o.drain_seconds; }, 0.001, 1e6);
  option.metavar = "SECONDS";
  option.set = [place](ServeOptions& o, const Values& v) {
    place(o) = Milliseconds(static_cast<int64_t>(std::lround(to_number(v.at(0)) * 1e3)));
  };
  option.get = [place](const ServeOptions& o) {
    return Values{
        number_text(static_cast<double>(place(const_cast<ServeOptions&>(o)).count()) / 1e3)};
  };
  return option;
}

template <class Place>
ServeOption toggle_option(const char* group, const char* name, const char* help, Place place) {
  ServeOption option =
      text_option(group, name, help, [](ServeOptions& o) -> std::string& { return o.name; });
  option.kind = Kind::toggle;
  option.metavar = "";
  option.set = [place](ServeOptions& o, const Values& v) { place(o) = v.at(0) == "true"; };
  option.get = [place](const ServeOptions& o) {
    return Values{place(const_cast<ServeOptions&>(o)) ? "true" : "false"};
  };
  return option;
}

#define PLACE(member) \
  [](ServeOptions & o) -> auto& { return o.member; }

std::vector<ServeOption> model_options() {
  const char* group = "Model";
  std::vector<ServeOption> table;
  table.push_back(
      text_option(group, "model", "Model directory, GGUF file or Hugging Face name", PLACE(model)));
  table.back().short_flag = "-m";
  table.push_back(text_option(group, "name", "Name of the model in the API; empty: from its path",
                              PLACE(name)));
  table.push_back(integer_option(group, "threads", "Threads; 0: all CPUs of this process",
                                 PLACE(load.threads), 0, 1024));
  table.push_back(text_option(group, "dtype",
                              "auto: as the file stores it; f32: weights and state in float32",
                              PLACE(load.dtype), {"auto", "f32"}));
  table.push_back(text_option(group, "quantize", "Quantise float weights on load; empty: no",
                              PLACE(load.quantize), {"", "q8_0", "q4_0"}));
  table.push_back(text_option(group, "kv-dtype",
                              "Keys and values; empty: bf16, or f32 with --dtype f32",
                              PLACE(load.kv_dtype), {"", "bf16", "f32"}));
  table.push_back(text_option(group, "kernels",
                              "cpu: the fast ones; reference: the float64 specification",
                              PLACE(load.kernels), {"cpu", "reference"}));
  table.push_back(
      toggle_option(group, "verbose", "Show progress while loading", PLACE(load.verbose)));
  table.back().short_flag = "-v";
  table.push_back(text_option(group, "target",
                              "Instruction set: one that heddle info lists; empty: the best",
                              PLACE(target)));
  return table;
}

std::vector<ServeOption> http_options() {
  const char* group = "HTTP";
  std::vector<ServeOption> table;
  table.push_back(text_option(group, "host", "Address to listen on", PLACE(server.http.host)));
  table.push_back(
      integer_option(group, "port", "Port; 0 takes a free one", PLACE(server.http.port), 0, 65535));
  ServeOption keys = text_option(
      group, "api-key", "Key that clients must send; may be given several times", PLACE(name));
  keys.kind = Kind::list;
  keys.secret = true;
  keys.metavar = "KEY";
  keys.set = [](ServeOptions& o, const Values& v) { o.server.api_keys = v; };
  keys.get = [](const ServeOptions& o) { return o.server.api_keys; };
  table.push_back(std::move(keys));
  table.push_back(
      text_option(group, "api-key-file", "File of such keys, one a line", PLACE(api_key_file)));
  table.push_back(toggle_option(group, "shared-cache", "Share cached prefixes between API keys",
                                PLACE(server.shared_cache)));
  table.push_back(integer_option(group, "max-connections", "Connections served at once",
                                 PLACE(server.http.max_connections), 1, 16384));
  table.push_back(integer_option(group, "max-body-bytes", "Largest request body",
                                 PLACE(server.http.limits.body_bytes), 1024, 1LL << 32));
  table.push_back(integer_option(group, "max-header-bytes", "Largest request line and headers",
                                 PLACE(server.http.limits.head_bytes), 1024, 1 << 20));
  table.push_back(seconds_option(group, "header-timeout", "For the headers of a request to arrive",
                                 PLACE(server.http.timeouts.head)));
  table.push_back(seconds_option(group, "body-timeout", "For the body of a request to arrive",
                                 PLACE(server.http.timeouts.body)));
  table.push_back(seconds_option(group, "keep-alive-timeout",
                                 "Between two requests of a connection",
                                 PLACE(server.http.timeouts.keep_alive)));
  table.push_back(seconds_option(group, "write-timeout",
                                 "Without progress, for a client that does not read",
                                 PLACE(server.http.timeouts.write)));
  table.push_back(seconds_option(group, "request-timeout", "For an answer as a whole",
                                 PLACE(server.request_timeout)));
  table.push_back(number_option(group, "drain-seconds",
                                "On SIGTERM, time for running answers to end", PLACE(drain_seconds),
                                0, 1e5));
  table.back().metavar = "SECONDS";
  table.push_back(text_option(group, "log-format", "text: a line a request; json: an object a line",
                              PLACE(log_format), {"text", "json"}));
  return table;
}

std::vector<ServeOption> engine_options() {
  const char* group = "Engine";
  std::vector<ServeOption> table;
  table.push_back(number_option(
      group, "state-gib",
      "Memory for running sequences and cached prefixes, GiB; 0: up to 4, by what is there",
      PLACE(state_gib), 0, 1e5));
  table.push_back(integer_option(group, "step-tokens",
                                 "Tokens of one engine step, over all requests",
                                 PLACE(engine.scheduler.step_tokens), 1, 1 << 20));
  table.push_back(integer_option(group, "max-sequences", "Requests that run at once",
                                 PLACE(engine.scheduler.max_sequences), 1, 4096));
  table.push_back(integer_option(group, "max-waiting",
                                 "Requests that may wait before others are refused",
                                 PLACE(engine.max_waiting), 0, 1 << 20));
  table.push_back(integer_option(group, "max-unread-tokens",
                                 "Tokens that may wait for a client that does not read",
                                 PLACE(engine.max_unread_events), 16, 1 << 24));
  table.push_back(integer_option(group, "max-tokens", "Output tokens when a request names no limit",
                                 PLACE(server.default_max_tokens), 1, 1 << 24));
  table.push_back(toggle_option(group, "prefix-cache", "Keep state between requests",
                                PLACE(engine.prefix_cache)));
  return table;
}

#undef PLACE

// A single text as a checked value. Toggles take the words that people write.
Result<std::string> checked(const ServeOption& option, const std::string& text) {
  switch (option.kind) {
    case Kind::list:
      if (text.empty()) return fail("an empty text is no key");
      return text;
    case Kind::text: {
      const auto& choices = option.choices;
      if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end())
        return fail("'{}', one of '{}' is expected", text, fmt::join(choices, "', '"));
      return text;
    }
    case Kind::toggle:
      for (const char* word : {"true", "1", "yes", "on"})
        if (text == word) return std::string("true");
      for (const char* word : {"false", "0", "no", "off"})
        if (text == word) return std::string("false");
      return fail("'{}', true or false is expected", text);
    case Kind::integer:
    case Kind::number: {
      char* end = nullptr;
      const double value = std::strtod(text.c_str(), &end);
      const bool whole = end == text.c_str() + text.size() && !text.empty() && std::isfinite(value);
      const bool fits = option.kind == Kind::number || value == std::floor(value);
      if (!whole || !fits || value < option.low || value > option.high)
        return fail("'{}', {} from {} to {} is expected", text,
                    option.kind == Kind::integer ? "a whole number" : "a number", option.low,
                    option.high);
      return option.kind == Kind::integer ? fmt::format("{:.0f}", value) : text;
    }
  }
  return text;
}

size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

std::vector<std::string> names(std::string (ServeOption::*name)() const) {
  std::vector<std::string> result;
  for (const ServeOption& option : serve_option_table()) result.push_back((option.*name)());
  return result;
}

// As a TOML file holds it.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

}  // namespace

ServeOptions::ServeOptions() { server.http.port = 8080; }

std::string ServeOption::key() const { return upper_key(name, same); }
std::string ServeOption::variable() const { return "HEDDLE_" + upper_key(name, upper); }

const std::vector<ServeOption>& serve_option_table() {
  static const std::vector<ServeOption> table = [] {
    std::vector<ServeOption> all = model_options();
    for (auto& part : {http_options(), engine_options()})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }();
  return table;
}

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  size_t least = std::max<size_t>(3, word.size() / 2);
  for (const std::string& candidate : known) {
    const size_t far = distance(word.substr(0, 64), candidate);
    if (far < least) {
      least = far;
      best = candidate;
    }
  }
  return best;
}

Result<OptionValues> parse_environment(const std::vector<std::string>& environment) {
  // Read elsewhere.
  constexpr std::string_view kOthers[] = {"HEDDLE_CONFIG", "HEDDLE_MODELS_DIR"};
  OptionValues values(serve_option_table().size());
  const auto variables = names(&ServeOption::variable);
  for (const std::string& entry : environment) {
    const size_t equal = entry.find('=');
    const std::string name = entry.substr(0, equal);
    if (equal == std::string::npos || !name.starts_with("HEDDLE_")) continue;
    if (std::find(std::begin(kOthers), std::end(kOthers), name) != std::end(kOthers)) continue;
    const auto found = std::find(variables.begin(), variables.end(), name);
    if (found == variables.end()) {
      // Other programs may have variables of this prefix; one that is nearly ours is a mistake.
      const std::string near = nearest(name, variables);
      if (near.empty() || distance(name, near) > 2) continue;
      return fail("the environment has {}, which is no option: did you mean {}?", name, near);
    }
    // Kubernetes sets HEDDLE_PORT so for a service of the name heddle.
    if (entry.substr(equal + 1).starts_with("tcp://")) continue;
    const auto index = static_cast<size_t>(found - variables.begin());
    Values given = {entry.substr(equal + 1)};
    if (serve_option_table()[index].kind == Kind::list) {  // separated by commas
      given.clear();
      std::istringstream list(entry.substr(equal + 1));
      for (std::string item; std::getline(list, item, ',');) given.push_back(item);
    }
    values[index] = std::move(given);
  }
  return values;
}

Result<ResolvedOptions> resolve_options(const std::vector<OptionSource>& sources) {
  ResolvedOptions resolved;
  const auto& table = serve_option_table();
  for (size_t i = 0; i < table.size(); ++i) {
    resolved.sources.emplace_back("default");
    for (const OptionSource& source : sources) {
      if (i >= source.values.size() || !source.values[i]) continue;
      Values good;
      for (const std::string& value : *source.values[i]) {
        auto one = checked(table[i], value);
        if (!one) return fail("{}: {} is {}", source.name, table[i].key(), one.error().message);
        good.push_back(std::move(*one));
      }
      table[i].set(resolved.options, good);
      resolved.sources.back() = source.name;
      break;
    }
  }
  return resolved;
}

std::string config_text(const ResolvedOptions& resolved) {
  std::string text;
  const auto& table = serve_option_table();
  for (size_t i = 0; i < table.size(); ++i) {
    const ServeOption& option = table[i];
    const Values values = option.get(resolved.options);
    if (option.secret) {
      text += fmt::format("# {}: {} given, not shown\n", option.key(), values.size());
      continue;
    }
    const bool bare =
        option.kind == Kind::integer || option.kind == Kind::number || option.kind == Kind::toggle;
    text += fmt::format("{} = {}  # {}\n", option.key(), bare ? values[0] : quoted(values[0]),
                        resolved.sources[i]);
  }
  return text;
}

std::string options_markdown() {
  std::string text = "| flag | key | variable | default | what it is |\n|---|---|---|---|---|\n";
  const ServeOptions defaults;
  for (const ServeOption& option : serve_option_table()) {
    const Values values = option.get(defaults);
    const std::string value =
        values.empty() || values[0].empty() ? "" : fmt::format("`{}`", values[0]);
    text += fmt::format("| `--{}` | `{}` | `{}` | {} | {} |\n", option.name, option.key(),
                        option.variable(), value, option.help);
  }
  return text;
}

}  // namespace heddle::cli
