// heddle logits: the logits of a whole text, computed in any of the ways that must be equal.
#include <unistd.h>

#include <filesystem>

#include "cli/common.h"
#include "model/files/safetensors.h"
#include "model/run.h"

namespace heddle::cli {
namespace {

struct LogitsFlags {
  std::string model;
  std::string ids;
  std::string out;
  model::RunOptions run;
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
  flags.run.kernels = flags.load.kernel_set();
  TemporaryFile snapshot;
  if (flags.run.restore_at >= 0)
    snapshot.path = fmt::format("{}.{}.snapshot", flags.out, static_cast<int64_t>(getpid()));
  flags.run.snapshot_file = snapshot.path;
  HEDDLE_TRY(auto writer, model::SafetensorsWriter::create(
                              flags.out, {{"logits", DType::f32, {std::ssize(ids), vocab}}}));
  Status written;
  const auto sink = [&](int64_t, int64_t count, const float* logits) {
    if (!written) return;
    written = writer.append(std::as_bytes(std::span(logits, static_cast<size_t>(count * vocab))));
  };
  HEDDLE_TRY_STATUS(model::run_logits(*model, pool, ids, flags.run, sink));
  HEDDLE_TRY_STATUS(std::move(written));
  return writer.finish();
}

int run(LogitsFlags& flags) {
  const Status done = compute(flags);
  return done ? 0 : report(done.error());
}

}  // namespace

void add_logits(CLI::App& app) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* command = app.add_subcommand(
      "logits", "Write the logits [T, V] of a text; every way of computing them gives equal bytes");
  command->add_option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name")
      ->required();
  command->add_option("--ids", flags->ids, "JSON list of token ids, or an object with \"ids\"")
      ->required();
  command->add_option("-o,--out", flags->out, "Safetensors file to write (tensor: logits)")
      ->required();
  command->add_option("--chunk", flags->run.chunk, "Tokens of one step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--batch-with", flags->run.batch_with,
                   "Other sequences of random tokens in the same steps")
      ->check(CLI::Range(0, 1024));
  command
      ->add_option("--restore-at", flags->run.restore_at,
                   "Save a snapshot to disk at this position and go on from the file")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--draft-at", flags->run.draft_at,
                   "After this position, draft random tokens (a chain, a tree) and reject them")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", flags->run.seed, "Of the random tokens")->capture_default_str();
  flags->load.add_to(*command);
  command->footer(
      "Example: heddle logits -m model.gguf --ids ids.json -o logits.safetensors --chunk 64");
  command->callback([flags] { throw CLI::RuntimeError(run(*flags)); });
}

}  // namespace heddle::cli
