// heddle perplexity: how well a model predicts a text, as one sequence.
#include <chrono>
#include <cmath>
#include <numeric>

#include "cli/common.h"
#include "model/score.h"
#include "serving/tokenizer_files.h"
#include "text/template/value.h"

namespace heddle::cli {
namespace {

struct PerplexityFlags {
  std::string model;
  std::string file;
  std::string ids;
  int64_t limit = 0;
  bool json = false;
  model::ScoreOptions score;
  ModelFlags load;
};

Result<std::vector<int32_t>> tokens_of(const PerplexityFlags& flags) {
  if (!flags.ids.empty()) return read_ids(flags.ids);
  HEDDLE_TRY(const std::string path, flags.load.resolve(flags.model));
  HEDDLE_TRY(const text::Tokenizer tokenizer, serving::load_tokenizer(path));
  HEDDLE_TRY(const std::string text, read_text_file(flags.file));
  return tokenizer.encode(text);
}

Status compute(PerplexityFlags& flags) {
  HEDDLE_TRY(std::vector<int32_t> ids, tokens_of(flags));
  if (flags.limit > 0 && std::ssize(ids) > flags.limit)
    ids.resize(static_cast<size_t>(flags.limit));
  ThreadPool pool(flags.load.thread_count());
  HEDDLE_TRY(const auto model, load_model(flags.load, flags.model, pool));
  flags.score.kernels = flags.load.kernel_set();
  const auto start = std::chrono::steady_clock::now();
  HEDDLE_TRY(const std::vector<double> nll, model::token_nll(*model, pool, ids, flags.score));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const double mean =
      std::accumulate(nll.begin(), nll.end(), 0.0) / static_cast<double>(nll.size());
  if (flags.json) {
    const auto body = text::Value::map({{"tokens", std::ssize(ids)},
                                        {"mean_nll", mean},
                                        {"perplexity", std::exp(mean)},
                                        {"seconds", seconds.count()},
                                        {"nll", text::Value::list({nll.begin(), nll.end()})}});
    HEDDLE_TRY(const std::string line, text::to_json(body));
    fmt::print("{}\n", line);
  } else {
    fmt::print(
        "{} tokens, mean negative log-likelihood {:.6f} nats, perplexity {:.4f} ({:.1f} s)\n",
        ids.size(), mean, std::exp(mean), seconds.count());
  }
  return {};
}

int run(PerplexityFlags& flags) {
  const Status done = compute(flags);
  return done ? 0 : report(done.error());
}

}  // namespace

void add_perplexity(Command app) {
  auto flags = std::make_shared<PerplexityFlags>();
  Command command =
      app.subcommand("perplexity", "Mean negative log-likelihood of a text, read as one sequence");
  command.option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name")
      .required();
  const Option file = command.option("-f,--file", flags->file, "Text to read");
  const Option ids =
      command.option("--ids", flags->ids, "JSON list of token ids, or an object with \"ids\"");
  file.excludes(ids);
  command.option("--limit", flags->limit, "Read only so many tokens").at_least(1);
  command.option("--chunk", flags->score.chunk, "Tokens of one step")
      .between(1, 1 << 20)
      .show_default();
  command.option("--json", flags->json, "Print JSON with the value of every token");
  flags->load.add_to(command);
  command.footer("Example: heddle perplexity -m model.gguf -f text.txt");
  command.runs([flags] { return run(*flags); }, {file, ids});
}

}  // namespace heddle::cli
