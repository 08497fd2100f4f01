// heddle serve: the HTTP server.
#include <csignal>
#include <ctime>
#include <mutex>
#include <thread>

#include "cli/common.h"
#include "server/http_server.h"
#include "server/runtime.h"

namespace heddle::cli {
namespace {

struct ServeFlags {
  std::string model;
  ModelFlags load;
  server::ServerOptions server;
  std::string name;
  double state_gib = 4;
  int64_t step_tokens = 512;
  int64_t max_sequences = 64;
  int64_t max_waiting = 256;
  bool no_prefix_cache = false;
  double drain_seconds = 30;
};

void print_line(const std::string& line) {
  static std::mutex mutex;
  const std::time_t now = std::time(nullptr);
  char stamp[32];
  std::tm parts{};
  std::strftime(stamp, sizeof stamp, "%H:%M:%S", localtime_r(&now, &parts));
  std::lock_guard lock(mutex);
  fmt::print("{} {}\n", stamp, line);
  std::fflush(stdout);
}

int run(ServeFlags& flags) {
  // Blocked before any thread starts, so that only the waiting below receives them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  server::RuntimeOptions options = runtime_options(flags.load);
  options.name = flags.name;
  options.engine.state_bytes = static_cast<int64_t>(flags.state_gib * (1 << 30));
  options.engine.scheduler.step_tokens = flags.step_tokens;
  options.engine.scheduler.max_sequences = flags.max_sequences;
  options.engine.max_waiting = flags.max_waiting;
  options.engine.prefix_cache = !flags.no_prefix_cache;
  const auto path = flags.load.resolve(flags.model);
  if (!path) return report(path.error());
  auto runtime = server::Runtime::load(*path, options);
  if (!runtime) return report(runtime.error());
  const auto& spec = (*runtime)->model().spec();
  print_line(
      fmt::format("model {} ({}, {} layers, {} MiB of weights, context {}), {} threads, {} kernels",
                  (*runtime)->handle().name, spec.arch, spec.layers.size(),
                  (*runtime)->model().weight_bytes() >> 20, spec.context_length,
                  (*runtime)->threads(), active_target()));
  flags.server.log = print_line;
  server::HttpServer server((*runtime)->handle(), flags.server);
  if (auto bound = server.bind(); !bound) return report(bound.error());
  print_line(fmt::format("state memory {:.1f} GiB; ready on http://{}:{}", flags.state_gib,
                         flags.server.host, server.port()));

  std::thread listener([&] { server.serve(); });
  int received = 0;
  sigwait(&signals, &received);
  print_line(fmt::format("{}: finishing running answers (up to {} s)",
                         received == SIGTERM ? "SIGTERM" : "SIGINT", flags.drain_seconds));
  server.stop(std::chrono::milliseconds(static_cast<int64_t>(flags.drain_seconds * 1e3)));
  listener.join();
  print_line("stopped");
  return 0;
}

}  // namespace

void add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a model over HTTP (OpenAI-compatible)");
  command->add_option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name")
      ->required();
  command->add_option("--host", flags->server.host, "Address to listen on")->capture_default_str();
  command->add_option("--port", flags->server.port, "Port; 0 takes a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--name", flags->name,
                      "Name of the model in the API (default: from the path)");
  command->add_option("--api-key", flags->server.api_keys,
                      "Key that clients must send; may be given several times");
  command
      ->add_option("--state-gib", flags->state_gib,
                   "Memory for running sequences and cached prefixes, GiB")
      ->check(CLI::Range(0.01, 1e5))
      ->capture_default_str();
  command
      ->add_option("--step-tokens", flags->step_tokens,
                   "Tokens of one engine step, over all requests")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--max-sequences", flags->max_sequences, "Requests that run at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      ->add_option("--max-waiting", flags->max_waiting,
                   "Requests that may wait before others are refused")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--max-connections", flags->server.max_connections, "Connections served at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--max-body-bytes", flags->server.max_body_bytes, "Largest request body")
      ->capture_default_str();
  command
      ->add_option("--max-tokens", flags->server.default_max_tokens,
                   "Output tokens when a request names no limit")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_flag("--no-prefix-cache", flags->no_prefix_cache, "Keep no state between requests");
  command
      ->add_option("--drain-seconds", flags->drain_seconds,
                   "On SIGTERM, time for running answers to end")
      ->check(CLI::Range(0.0, 1e5))
      ->capture_default_str();
  flags->load.add_to(*command);
  command->footer("Example: heddle serve --model SmolLM2-135M-Instruct.Q4_1.gguf --port 8080");
  command->callback([flags] { throw CLI::RuntimeError(run(*flags)); });
}

}  // namespace heddle::cli
