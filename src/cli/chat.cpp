// heddle chat: a conversation in the terminal.
#include <editline/readline.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "cli/common.h"
#include "server/chat_prompt.h"
#include "server/runtime.h"

namespace heddle::cli {
namespace {

struct ChatFlags {
  std::string model;
  std::string system;
  int64_t max_tokens = 1024;
  engine::SamplingParams sampling;
  bool stats = false;
  ModelFlags load;
};

constexpr const char* kHelp =
    "/system TEXT   set the system prompt and begin anew\n"
    "/reset         begin anew\n"
    "/stats         show or hide speeds after each answer\n"
    "/help          this list\n"
    "/quit          leave (as does Ctrl-D)\n"
    "A line that ends in \\ goes on in the next one. Ctrl-C stops an answer.";

// A signal handler may touch nothing else.
std::atomic<bool> interrupted{false};
void on_interrupt(int) { interrupted.store(true); }

// One line of input; nullopt at the end. Editing and history on a terminal, plain reading
// otherwise.
std::optional<std::string> read_line(bool terminal, const char* prompt) {
  if (!terminal) {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
  }
  char* line = readline(prompt);
  if (line == nullptr) return std::nullopt;
  std::string text(line);
  std::free(line);
  if (!text.empty()) add_history(text.c_str());
  return text;
}

std::optional<std::string> read_message(bool terminal) {
  std::string message;
  const char* prompt = "> ";
  while (true) {
    auto line = read_line(terminal, prompt);
    if (!line) return message.empty() ? std::nullopt : std::optional(message);
    const bool more = !line->empty() && line->back() == '\\';
    if (more) line->pop_back();
    message += *line;
    if (!more) return message;
    message += '\n';
    prompt = ". ";
  }
}

class Conversation {
 public:
  Conversation(const server::ModelHandle& model, const ChatFlags& flags)
      : model_(model), flags_(flags), system_(flags.system) {
    reset();
  }

  void reset() {
    messages_.clear();
    if (!system_.empty()) messages_.push_back(message("system", system_));
  }
  void set_system(std::string text) {
    system_ = std::move(text);
    reset();
  }
  bool toggle_stats() { return stats_ = !stats_; }

  // Says `text`, prints the answer as it comes, and remembers both. On an error nothing is
  // remembered.
  Status say(const std::string& text) {
    messages_.push_back(message("user", text));
    auto answer = reply();
    if (!answer) {
      messages_.pop_back();
      return tl::unexpected(answer.error());
    }
    messages_.push_back(message("assistant", *answer));
    return {};
  }

 private:
  static text::Value message(const char* role, const std::string& content) {
    return text::Value::map({{"role", role}, {"content", content}});
  }

  Result<std::string> reply() {
    HEDDLE_TRY(auto prompt, server::render_chat(model_, text::Value::list(messages_), {}, {}));
    server::GenerationRequest request;
    request.engine.prompt = std::move(prompt.tokens);
    request.engine.checkpoints = std::move(prompt.checkpoints);
    request.engine.max_tokens = flags_.max_tokens;
    request.engine.sampling = flags_.sampling;
    request.engine.sampling.seed +=
        messages_.size();  // a new seed a turn, the same conversation for the same seed
    HEDDLE_TRY(auto generation, server::Generation::start(model_, std::move(request)));
    std::string answer;
    interrupted.store(false);
    while (true) {
      const auto delta = generation->next(std::chrono::milliseconds(50));
      if (interrupted.exchange(false)) generation->cancel();
      if (!delta) continue;
      answer += delta->text;
      fmt::print("{}", delta->text);
      std::fflush(stdout);
      if (!delta->finished) continue;
      fmt::print("\n");
      if (delta->reason == engine::FinishReason::error) return fail("{}", delta->error);
      if (stats_) print_stats(delta->usage);
      return answer;
    }
  }

  static void print_stats(const engine::Usage& usage) {
    const int64_t read = usage.prompt_tokens - usage.cached_tokens;
    fmt::print(stderr, "[read {} of {} prompt tokens at {:.0f} tok/s; wrote {} at {:.1f} tok/s]\n",
               read, usage.prompt_tokens,
               usage.prefill_seconds > 0 ? static_cast<double>(read) / usage.prefill_seconds : 0.0,
               usage.output_tokens,
               usage.decode_seconds > 0
                   ? static_cast<double>(usage.output_tokens - 1) / usage.decode_seconds
                   : 0.0);
  }

  const server::ModelHandle& model_;
  const ChatFlags& flags_;
  std::string system_;
  std::vector<text::Value> messages_;
  bool stats_ = flags_.stats;
};

int converse(const server::ModelHandle& model, const ChatFlags& flags) {
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print("{}: /help lists the commands, Ctrl-D leaves\n", model.name);
  std::signal(SIGINT, on_interrupt);
  Conversation conversation(model, flags);
  while (true) {
    auto text = read_message(terminal);
    if (!text || *text == "/quit" || *text == "/exit") break;
    if (interrupted.exchange(false) || text->find_first_not_of(" \t\n") == std::string::npos)
      continue;
    if (*text == "/help") {
      fmt::print("{}\n", kHelp);
    } else if (*text == "/reset") {
      conversation.reset();
    } else if (*text == "/stats") {
      fmt::print("speeds are {}\n", conversation.toggle_stats() ? "shown" : "hidden");
    } else if (text->starts_with("/system")) {
      conversation.set_system(text->size() > 8 ? text->substr(8) : std::string());
    } else if (text->starts_with("/")) {
      fmt::print("no such command; /help lists them\n");
    } else if (auto said = conversation.say(*text); !said) {
      fmt::print(stderr, "error: {}\n", said.error().message);
    }
  }
  if (terminal) fmt::print("\n");
  return 0;
}

int run(const ChatFlags& flags) {
  server::RuntimeOptions options;
  options.load = flags.load.options();
  options.kernels = flags.load.kernel_set();
  options.threads = flags.load.threads;
  const auto path = flags.load.resolve(flags.model);
  if (!path) return report(path.error());
  auto runtime = server::Runtime::load(*path, options);
  if (!runtime) return report(runtime.error());
  if ((*runtime)->handle().chat_template == nullptr)
    return report({fmt::format(
        "{}: the model has no chat template; heddle generate continues plain text", *path)});
  return converse((*runtime)->handle(), flags);
}

}  // namespace

void add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  flags->sampling.temperature = 0.7;
  flags->sampling.top_p = 0.95;
  CLI::App* command = app.add_subcommand("chat", "Talk with a model in the terminal");
  command->add_option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name")
      ->required();
  command->add_option("--system", flags->system, "System prompt");
  command->add_option("-n,--max-tokens", flags->max_tokens, "Tokens of an answer at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command
      ->add_option("--temperature", flags->sampling.temperature,
                   "0 always takes the likeliest token")
      ->capture_default_str();
  command
      ->add_option("--top-p", flags->sampling.top_p,
                   "Keep the likeliest with this much probability")
      ->capture_default_str();
  command->add_option("--top-k", flags->sampling.top_k, "Keep the k likeliest (0: all)")
      ->capture_default_str();
  command
      ->add_option("--min-p", flags->sampling.min_p,
                   "Keep those at least this likely beside the likeliest")
      ->capture_default_str();
  command->add_option("--seed", flags->sampling.seed, "The same seed gives the same conversation")
      ->capture_default_str();
  command->add_flag("--stats", flags->stats, "Show speeds after each answer");
  flags->load.add_to(*command);
  command->footer("Example: heddle chat -m SmolLM2-135M-Instruct.Q4_1.gguf");
  command->callback([flags] { throw CLI::RuntimeError(run(*flags)); });
}

}  // namespace heddle::cli
