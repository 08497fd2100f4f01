// heddle serve: the HTTP server.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <mutex>
#include <thread>

#include "base/out_of_memory.h"
#include "cli/common.h"
#include "cli/serve_options.h"
#include "server/http_server.h"
#include "serving/memory_plan.h"
#include "serving/runtime.h"
#include "text/template/value.h"

extern char** environ;

namespace heddle::cli {
namespace {

constexpr size_t kMaxKeys = 1024;

struct ServeFlags {
  OptionValues given;
  std::string config;
  bool print_config = false;
};

// Lines of the log: text with the time before it, or objects with the time inside.
class Log {
 public:
  explicit Log(bool json) : json_(json) {}

  void say(const std::string& text) {
    if (!json_) return print(text);
    print(*text::to_json(text::Value::map({{"event", "message"}, {"text", text}}),
                         {.ensure_ascii = true}));
  }
  void request(const server::RequestRecord& record) {
    print(json_ ? server::record_json(record) : server::record_text(record));
  }

 private:
  void print(const std::string& line) {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    char stamp[32];
    std::strftime(stamp, sizeof stamp, json_ ? "%Y-%m-%dT%H:%M:%SZ" : "%H:%M:%S",
                  json_ ? gmtime_r(&now, &parts) : localtime_r(&now, &parts));
    std::lock_guard lock(mutex_);
    if (json_) {
      fmt::print("{{\"time\": \"{}\", {}\n", stamp, line.substr(1));
    } else {
      fmt::print("{} {}\n", stamp, line);
    }
    std::fflush(stdout);
  }

  bool json_;
  std::mutex mutex_;
};

Status read_keys(ServeOptions& options) {
  auto& keys = options.server.api_keys;
  if (!options.api_key_file.empty()) {
    HEDDLE_TRY(const std::string text, read_text_file(options.api_key_file, 1 << 20));
    const size_t before = keys.size();
    for (size_t start = 0; start < text.size();) {
      const size_t end = std::min(text.find('\n', start), text.size());
      std::string line = text.substr(start, end - start);
      start = end + 1;
      line.erase(line.find_last_not_of(" \t\r") + 1);
      line.erase(0, line.find_first_not_of(" \t"));
      if (!line.empty() && line[0] != '#') keys.push_back(line);
    }
    if (keys.size() == before)
      return fail("{}: there is no key in it, one a line is expected", options.api_key_file);
  }
  if (keys.size() > kMaxKeys)
    return fail("{} API keys, at most {} are expected", keys.size(), kMaxKeys);
  for (const std::string& key : keys)
    for (const char c : key)
      if (c <= 0x20 || c >= 0x7f)
        return fail("an API key has characters that no HTTP header can carry");
  return {};
}

Result<ResolvedOptions> resolve(const ServeFlags& flags) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  std::vector<OptionSource> sources;
  sources.push_back({"flag", flags.given});
  HEDDLE_TRY(auto variables, parse_environment(environment));
  sources.push_back({"environment", std::move(variables)});
  std::string config = flags.config;
  for (const std::string& entry : environment)
    if (config.empty() && entry.starts_with("HEDDLE_CONFIG=")) config = entry.substr(14);
  if (!config.empty()) {
    HEDDLE_TRY(const std::string text, read_text_file(config, 1 << 20));
    HEDDLE_TRY(auto values, parse_config(text, config));
    sources.push_back({config, std::move(values)});
  }
  return resolve_options(sources);
}

// Waits for the first signal, then lets the answers end; a second one ends the process at once.
void stop_on_signal(const sigset_t& signals, server::HttpServer& server, Log& log,
                    double drain_seconds) {
  int received = 0;
  sigwait(&signals, &received);
  std::atomic<bool> stopped{false};
  const auto stop = [&] {
    server.stop(std::chrono::milliseconds(static_cast<int64_t>(drain_seconds * 1e3)));
    stopped.store(true);
  };
  std::thread stopper;
  try {
    log.say(fmt::format("{}: finishing running answers (up to {} s; a second signal ends at once)",
                        received == SIGTERM ? "SIGTERM" : "SIGINT", drain_seconds));
    stopper = start_thread("stopping", stop);
  } catch (const std::bad_alloc&) {  // then without a second signal
    stop();
  }
  while (!stopped.load()) {
    const timespec wait{0, 50'000'000};
    const int second = sigtimedwait(&signals, nullptr, &wait);
    if (second > 0) ::_exit(128 + second);
  }
  if (stopper.joinable()) stopper.join();
}

int serve(ServeOptions& options, Log& log) {
  // Blocked before any thread starts, so that only stop_on_signal receives them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  const auto path = options.load.resolve(options.model);
  if (!path) return report(path.error());
  serving::RuntimeOptions runtime_options = cli::runtime_options(options.load);
  runtime_options.name = options.name;
  runtime_options.engine = options.engine;
  {
    const auto checkpoint = model::Checkpoint::open(*path);
    if (!checkpoint) return report(checkpoint.error());
    const auto plan = serving::plan_memory(
        *checkpoint, runtime_options.load, options.engine.scheduler,
        static_cast<int64_t>(options.state_gib * (1 << 30)), backend::machine_memory());
    if (!plan) return report(plan.error());
    runtime_options.engine.state_bytes = plan->state_bytes;
    for (const std::string& line : serving::plan_lines(*plan)) log.say(line);
  }
  auto runtime = serving::Runtime::load(*path, runtime_options);
  if (!runtime) return report(runtime.error());
  options.load.report_loaded(*path, (*runtime)->model());
  const auto& spec = (*runtime)->model().spec();
  log.say(
      fmt::format("model {} ({}, {} layers, {} MiB of weights, context {}), {} threads, {} kernels",
                  (*runtime)->handle().name, spec.arch, spec.layers.size(),
                  (*runtime)->model().weight_bytes() >> 20, spec.context_length,
                  (*runtime)->threads(), backend::active_target()));
  options.server.log = [&](const server::RequestRecord& record) { log.request(record); };
  server::HttpServer server((*runtime)->handle(), options.server);
  if (auto bound = server.bind(); !bound) return report(bound.error());
  log.say(fmt::format("ready on http://{}:{}{}", options.server.http.host, server.port(),
                      options.server.api_keys.empty() ? "" : ", API keys required"));
  std::thread listener = start_thread("listening", [&] { server.serve(); });
  stop_on_signal(signals, server, log, options.drain_seconds);
  listener.join();
  // Nothing may be held when nobody is served: a leak of pages would show here.
  (*runtime)->service().call([](engine::Engine& engine) { engine.check_invariants(); });
  log.say("stopped");
  return 0;
}

int run(const ServeFlags& flags) {
  auto resolved = resolve(flags);
  if (!resolved) return report(resolved.error());
  ServeOptions& options = resolved->options;
  if (auto keys = read_keys(options); !keys) return report(keys.error());
  if (flags.print_config) {
    fmt::print("{}", config_text(*resolved));
    return 0;
  }
  if (options.model.empty())
    return report(
        {"a model is expected: --model, HEDDLE_MODEL or `model` in the configuration file"});
  if (!options.target.empty())
    if (auto used = backend::use_target(options.target); !used) return report(used.error());
  Log log(options.log_format == "json");
  return serve(options, log);
}

std::string flag_names(const ServeOption& option) {
  std::string names = option.short_flag.empty() ? "" : option.short_flag + ",";
  names += "--" + option.name;
  if (option.kind == ServeOption::Kind::toggle) names += ",!--no-" + option.name;
  return names;
}

void add_option(Command command, const std::shared_ptr<ServeFlags>& flags, size_t index) {
  const ServeOption& option = serve_option_table()[index];
  const auto defaults = option.get(ServeOptions());
  std::string help = option.help;
  if (!defaults.empty() && !defaults[0].empty() && option.kind != ServeOption::Kind::toggle)
    help += fmt::format(" [{}]", defaults[0]);
  if (option.kind == ServeOption::Kind::toggle)
    help += fmt::format(" [{}]", defaults[0] == "true" ? "yes" : "no");
  if (option.kind == ServeOption::Kind::toggle) {
    const auto take = [flags, index](bool yes) {
      flags->given[index] = ServeOption::Values{yes ? "true" : "false"};
    };
    command.toggle(flag_names(option), take, help).group(option.group);
    return;
  }
  const bool list = option.kind == ServeOption::Kind::list;
  const auto take = [flags, index, list](const ServeOption::Values& values) {
    flags->given[index] = list ? values : ServeOption::Values{values.back()};  // the last wins
  };
  command.repeated_option(flag_names(option), take, help)
      .value_name(option.metavar)
      .group(option.group);
}

}  // namespace

void add_serve(Command app) {
  auto flags = std::make_shared<ServeFlags>();
  const auto& table = serve_option_table();
  flags->given.resize(table.size());
  Command command = app.subcommand("serve", "Serve a model over HTTP (OpenAI-compatible)");
  for (size_t i = 0; i < table.size(); ++i) add_option(command, flags, i);
  command.option("--config", flags->config, "Configuration file, TOML or JSON (HEDDLE_CONFIG)");
  command.option("--print-config", flags->print_config,
                 "Print the effective configuration and where each value is from");
  command.allow_others();  // to name the flag that was meant
  command.footer(
      "Every option is also a key of the configuration file (--max-tokens: max_tokens = 512) and "
      "a\n"
      "variable (HEDDLE_MAX_TOKENS). A flag wins over a variable, a variable over the file.\n"
      "Example: heddle serve --model SmolLM2-135M-Instruct.Q4_1.gguf --port 8080");
  command.runs([flags, command] {
    for (const std::string& extra : command.others()) {
      std::vector<std::string> known = {"--config", "--print-config", "--help"};
      for (const ServeOption& option : serve_option_table()) known.push_back("--" + option.name);
      const std::string near = nearest(extra.substr(0, extra.find('=')), known);
      return report(
          {fmt::format("serve: unknown argument '{}'{}", extra,
                       near.empty() ? std::string() : fmt::format(", did you mean {}?", near))});
    }
    return run(*flags);
  });
}

}  // namespace heddle::cli
