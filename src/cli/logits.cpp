// heddle logits: the logits of a whole text, computed in any of the ways that must be equal.
#include <unistd.h>

#include <filesystem>

#include "cli/common.h"
#include "model/files/safetensors.h"
#include "model/score.h"

namespace heddle::cli {
namespace {

struct LogitsFlags {
  std::string model;
  std::string ids;
  std::string out;
  model::ScoreOptions score;
  ModelFlags load;
};

// Removes the snapshot however the run ends.
struct TemporaryFile {
  std::string path;
  ~TemporaryFile() {
    std::error_code error;
    if (!path.empty()) std::filesystem::remove(path, error);
  }
};

Status compute(LogitsFlags& flags) {
  HEDDLE_TRY(const std::vector<int32_t> ids, read_ids(flags.ids));
  if (ids.empty()) return fail("{}: the list is empty", flags.ids);
  ThreadPool pool(flags.load.thread_count());
  HEDDLE_TRY(const auto model, load_model(flags.load, flags.model, pool));
  const int64_t vocab = model->spec().vocab_size;
  flags.score.kernels = flags.load.kernel_set();
  TemporaryFile snapshot;
  if (flags.score.restore_at >= 0)
    snapshot.path = fmt::format("{}.{}.snapshot", flags.out, static_cast<int64_t>(getpid()));
  flags.score.snapshot_file = snapshot.path;
  HEDDLE_TRY(auto writer, model::SafetensorsWriter::create(
                              flags.out, {{"logits", DType::f32, {std::ssize(ids), vocab}}}));
  Status written;
  const auto sink = [&](int64_t, int64_t count, const float* logits) {
    if (!written) return;
    written = writer.append(std::as_bytes(std::span(logits, static_cast<size_t>(count * vocab))));
  };
  HEDDLE_TRY_STATUS(model::run_logits(*model, pool, ids, flags.score, sink));
  HEDDLE_TRY_STATUS(std::move(written));
  return writer.finish();
}

int run(LogitsFlags& flags) {
  const Status done = compute(flags);
  return done ? 0 : report(done.error());
}

}  // namespace

void add_logits(Command app) {
  auto flags = std::make_shared<LogitsFlags>();
  Command command = app.subcommand(
      "logits", "Write the logits [T, V] of a text; every way of computing them gives equal bytes");
  command.option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name")
      .required();
  command.option("--ids", flags->ids, "JSON list of token ids, or an object with \"ids\"")
      .required();
  command.option("-o,--out", flags->out, "Safetensors file to write (tensor: logits)").required();
  command.option("--chunk", flags->score.chunk, "Tokens of one step")
      .between(1, 1 << 20)
      .show_default();
  command
      .option("--batch-with", flags->score.batch_with,
              "Other sequences of random tokens in the same steps")
      .between(0, 1024);
  command
      .option("--restore-at", flags->score.restore_at,
              "Save a snapshot to disk at this position and go on from the file")
      .at_least(0);
  command
      .option("--draft-at", flags->score.draft_at,
              "After this position, draft random tokens (a chain, a tree) and reject them")
      .at_least(0);
  command.option("--seed", flags->score.seed, "Of the random tokens").show_default();
  flags->load.add_to(command);
  command.footer(
      "Example: heddle logits -m model.gguf --ids ids.json -o logits.safetensors --chunk 64");
  command.runs([flags] { return run(*flags); });
}

}  // namespace heddle::cli
