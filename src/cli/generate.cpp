// heddle generate: continue a text, once.
#include "cli/common.h"
#include "text/template/value.h"

namespace heddle::cli {
namespace {

struct GenerateFlags {
  std::string model;
  std::string prompt;
  std::string file;
  int64_t max_tokens = 128;
  std::vector<std::string> stops;
  SamplingFlags sampling;
  bool raw = false;
  bool json = false;
  ModelFlags load;
};

int run(const GenerateFlags& flags) {
  std::string prompt = flags.prompt;
  if (!flags.file.empty()) {
    auto text = read_text_file(flags.file);
    if (!text) return report(text.error());
    prompt = std::move(*text);
  }
  auto runtime = load_runtime(flags.load, flags.model);
  if (!runtime) return report(runtime.error());
  serving::GenerationRequest request;
  text::EncodeOptions encode;
  encode.add_special = !flags.raw;
  request.engine.prompt = (*runtime)->handle().tokenizer.encode(prompt, encode);
  request.engine.max_tokens = flags.max_tokens;
  request.engine.sampling = flags.sampling.params;
  request.engine.use_cache = false;
  request.stops = flags.stops;
  const auto generations = serving::Generation::start((*runtime)->handle(), std::move(request));
  if (!generations) return report(generations.error());
  serving::Generation& generation = *generations->front();
  std::string answer;
  while (true) {
    const auto delta = generation.next(std::chrono::hours(1));
    if (!delta) continue;
    answer += delta->text;
    if (!flags.json) {
      fmt::print("{}", delta->text);
      std::fflush(stdout);
    }
    if (!delta->finished) continue;
    const engine::Usage& usage = delta->usage;
    if (flags.json) {
      const auto body =
          text::Value::map({{"text", answer},
                            {"finish_reason", engine::finish_reason_name(delta->reason)},
                            {"prompt_tokens", usage.prompt_tokens},
                            {"output_tokens", usage.output_tokens},
                            {"prefill_seconds", usage.prefill_seconds},
                            {"decode_seconds", usage.decode_seconds}});
      const auto text = text::to_json(body);
      if (!text) return report(text.error());
      fmt::print("{}\n", *text);
    } else {
      fmt::print("\n");
      fmt::print(stderr, "prompt {} tokens, {:.0f} tok/s; output {} tokens, {:.1f} tok/s\n",
                 usage.prompt_tokens,
                 static_cast<double>(usage.prompt_tokens) / usage.prefill_seconds,
                 usage.output_tokens,
                 usage.decode_seconds > 0
                     ? static_cast<double>(usage.output_tokens - 1) / usage.decode_seconds
                     : 0.0);
    }
    return delta->reason == engine::FinishReason::error ? report({delta->error}) : 0;
  }
}

}  // namespace

void add_generate(Command app) {
  auto flags = std::make_shared<GenerateFlags>();
  Command command = app.subcommand("generate", "Continue a text");
  command.option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name")
      .required();
  const Option prompt = command.option("-p,--prompt", flags->prompt, "Text to continue");
  const Option file =
      command.option("-f,--file", flags->file, "Read the text from a file").excludes(prompt);
  command.option("-n,--max-tokens", flags->max_tokens, "Tokens to write at most")
      .between(1, 1 << 24)
      .show_default();
  command.option("--stop", flags->stops, "Text at which to end; may be given several times");
  flags->sampling.add_to(command);
  command.option("--raw", flags->raw, "Put no special tokens around the text");
  command.option("--json", flags->json, "Print one JSON object at the end");
  flags->load.add_to(command);
  command.footer(
      "Example: heddle generate -m SmolLM2-135M-Instruct.Q4_1.gguf -p 'The capital of France is' "
      "--temperature 0");
  command.runs([flags] { return run(*flags); }, {prompt, file});
}

}  // namespace heddle::cli
