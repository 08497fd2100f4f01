// heddle chat: a conversation in the terminal, or of the lines of a pipe.
#include <atomic>
#include <csignal>

#include "base/out_of_memory.h"
#include "cli/common.h"
#include "cli/common_line_editor.h"
#include "serving/conversation.h"

namespace heddle::cli {
namespace {

struct ChatFlags {
  std::string model;
  std::string system;
  std::string load_from;
  int64_t max_tokens = 1024;
  SamplingFlags sampling;
  bool stats = false;
  bool no_history = false;
  ModelFlags load;
};

constexpr const char* kHelp =
    "/system [TEXT]  set the system prompt (none without TEXT) and begin anew\n"
    "/reset          begin anew\n"
    "/undo           forget the last message and its answer\n"
    "/retry          answer the last message again, with another seed\n"
    "/save FILE      keep the conversation, with the state that the model has reached\n"
    "/load FILE      go on where a saved conversation ended\n"
    "/stats          show or hide tokens and speeds after each answer\n"
    "/help           this list\n"
    "/quit           leave (as does Ctrl-D)\n"
    "A line that ends in \\ goes on in the next one; a message of many lines stands between two "
    "lines\n"
    "of \"\"\". Ctrl-C stops an answer and keeps what was said; at the prompt it clears the line.";

// A signal handler may touch nothing else.
std::atomic<bool> interrupted{false};
void on_interrupt(int) { interrupted.store(true); }

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// A message of one line or several. cleared: what was typed of it is dropped.
LineEditor::Outcome read_message(LineEditor& editor, std::string& message) {
  message.clear();
  std::string line;
  bool block = false;
  bool first = true;
  while (true) {
    const auto outcome = editor.read(first ? "> " : ". ", line);
    if (outcome == LineEditor::Outcome::cleared) return outcome;
    if (outcome == LineEditor::Outcome::end) return first ? outcome : LineEditor::Outcome::line;
    const bool fence = trimmed(line) == "\"\"\"";
    if (first && fence) {
      block = true;
      first = false;
      continue;
    }
    if (block && fence) {
      if (!message.empty()) message.pop_back();  // the last line's end
      return LineEditor::Outcome::line;
    }
    const bool more = block || (!line.empty() && line.back() == '\\');
    if (more && !block) line.pop_back();
    message += line;
    if (!more) return LineEditor::Outcome::line;
    message += '\n';
    first = false;
  }
}

void print_stats(const engine::Usage& usage) {
  const int64_t read = usage.prompt_tokens - usage.cached_tokens;
  fmt::print(stderr, "[read {} of {} prompt tokens at {:.0f} tok/s; wrote {} at {:.1f} tok/s]\n",
             read, usage.prompt_tokens,
             usage.prefill_seconds > 0 ? static_cast<double>(read) / usage.prefill_seconds : 0.0,
             usage.output_tokens,
             usage.decode_seconds > 0
                 ? static_cast<double>(usage.output_tokens - 1) / usage.decode_seconds
                 : 0.0);
}

class Chat {
 public:
  Chat(const serving::ModelHandle& model, const ChatFlags& flags)
      : conversation_(model, {flags.system, flags.max_tokens, flags.sampling.params}),
        editor_(flags.no_history ? std::string() : state_file("chat_history")),
        stats_(flags.stats) {
    // While an answer is written; at a terminal's prompt Ctrl-C is a key.
    if (editor_.terminal()) std::signal(SIGINT, on_interrupt);
  }

  // Gives the exit status: of a pipe, 1 if anything was refused.
  int run(const std::string& name, const std::string& load_from) {
    if (!load_from.empty() && !load(load_from)) return 1;
    if (editor_.terminal()) fmt::print("{}: /help lists the commands, Ctrl-D leaves\n", name);
    std::string message;
    while (true) {
      const auto outcome = read_message(editor_, message);
      if (outcome == LineEditor::Outcome::end) break;
      interrupted.store(false);
      if (outcome == LineEditor::Outcome::cleared || trimmed(message).empty()) continue;
      editor_.remember(message);
      if (message[0] != '/') {
        show(conversation_.say(message, sink()));
      } else if (!command(message)) {
        break;
      }
    }
    if (editor_.terminal()) fmt::print("\n");
    return failed_ && !editor_.terminal() ? 1 : 0;
  }

 private:
  static serving::Conversation::Sink sink() {
    return [](std::string_view piece) {
      fmt::print("{}", piece);
      std::fflush(stdout);
      return !interrupted.load();
    };
  }

  bool refuse(const std::string& message) {
    fmt::print(stderr, "error: {}\n", message);
    failed_ = true;
    return false;
  }

  void show(const Result<serving::Reply>& reply) {
    fmt::print("\n");
    std::fflush(stdout);
    if (!reply) {
      refuse(reply.error().message);
      return;
    }
    const bool stopped = reply->reason == engine::FinishReason::cancelled;
    if (stopped && reply->text.empty()) {
      fmt::print(stderr, "[stopped before the first word: the message is forgotten]\n");
    } else if (stopped) {
      fmt::print(stderr, "[stopped]\n");
    } else if (reply->reason == engine::FinishReason::length) {
      fmt::print(stderr, "[cut off after {} tokens]\n", reply->usage.output_tokens);
    }
    if (stats_) print_stats(reply->usage);
  }

  bool load(const std::string& path) {
    const auto covered =
        within_memory("a conversation was loaded", [&] { return conversation_.load(path); });
    if (!covered) return refuse(covered.error().message);
    const auto& messages = conversation_.messages();
    fmt::print("loaded {} messages and the state after {} tokens from {}\n", messages.size(),
               *covered, path);
    const auto& sampling = conversation_.settings().sampling;
    fmt::print("temperature {}, seed {}", sampling.temperature, sampling.seed);
    fmt::print("{}\n", messages.empty() ? "" : "; the last answer was:");
    if (!messages.empty()) fmt::print("{}\n", messages.back().content);
    std::fflush(stdout);
    return true;
  }

  void save(const std::string& path) {
    const auto covered =
        within_memory("a conversation was saved", [&] { return conversation_.save(path); });
    if (!covered) {
      refuse(covered.error().message);
    } else {
      fmt::print("saved {} messages and the state after {} tokens to {}\n",
                 conversation_.messages().size(), *covered, path);
    }
  }

  // False: leave.
  bool command(const std::string& text) {
    const size_t end = text.find_first_of(" \t\n");
    const std::string name = text.substr(0, end);
    const std::string argument =
        end == std::string::npos ? std::string() : trimmed(text.substr(end));
    if (name == "/quit" || name == "/exit") return false;
    if (name == "/help") {
      fmt::print("{}\n", kHelp);
    } else if (name == "/system") {
      conversation_.set_system(argument);
      fmt::print("{}; begun anew\n", argument.empty() ? "no system prompt" : "system prompt set");
    } else if (name == "/reset") {
      conversation_.reset();
      fmt::print("begun anew\n");
    } else if (name == "/undo") {
      const bool undone = conversation_.undo();
      fmt::print("{}\n", undone ? "forgotten" : "nothing has been said yet");
    } else if (name == "/retry") {
      show(conversation_.retry(sink()));
    } else if (name == "/stats") {
      stats_ = !stats_;
      fmt::print("speeds are {}\n", stats_ ? "shown" : "hidden");
    } else if (name == "/save" || name == "/load") {
      if (argument.empty()) {
        refuse(fmt::format("{} FILE: a file name is expected", name));
      } else if (name == "/load") {
        load(argument);
      } else {
        save(argument);
      }
    } else {
      refuse(fmt::format("no command {}; /help lists them", name));
    }
    std::fflush(stdout);
    return true;
  }

  serving::Conversation conversation_;
  LineEditor editor_;
  bool stats_ = false;
  bool failed_ = false;
};

int run(const ChatFlags& flags) {
  auto runtime = load_runtime(flags.load, flags.model);
  if (!runtime) return report(runtime.error());
  const serving::ModelHandle& model = (*runtime)->handle();
  if (model.chat_template == nullptr)
    return report({fmt::format(
        "{}: the model has no chat template; heddle generate continues plain text", flags.model)});
  return Chat(model, flags).run(model.name, flags.load_from);
}

}  // namespace

void add_chat(Command app) {
  auto flags = std::make_shared<ChatFlags>();
  flags->sampling.params.temperature = 0.7;
  flags->sampling.params.top_p = 0.95;
  Command command = app.subcommand("chat", "Talk with a model in the terminal");
  command.option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name")
      .required();
  command.option("--system", flags->system, "System prompt");
  command.option("--load", flags->load_from, "Go on with a conversation that /save kept");
  command.option("-n,--max-tokens", flags->max_tokens, "Tokens of an answer at most")
      .between(1, 1 << 24)
      .show_default();
  flags->sampling.add_to(command);
  command.option("--stats", flags->stats, "Show tokens and speeds after each answer");
  command.option("--no-history", flags->no_history, "Keep no file of what was typed");
  flags->load.add_to(command);
  command.footer(
      "Example: heddle chat -m SmolLM2-135M-Instruct.Q4_1.gguf\n"
      "         echo 'What is the capital of France?' | heddle chat -m MODEL --temperature 0");
  command.runs([flags] { return run(*flags); });
}

}  // namespace heddle::cli
