// heddle bench: speed of prompt reading and decoding at depths, beside the machine's limits
// measured in the same run.
#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/rng.h"
#include "cli/common.h"
#include "model/model.h"
#include "ops/machine_limits.h"
#include "state/sequence_state.h"

namespace heddle::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchFlags {
  std::string model;
  std::string preset;
  std::vector<int64_t> prompts = {512};
  std::vector<int64_t> outputs = {128};
  std::vector<int64_t> depths = {0};
  std::vector<int> threads;
  int repetitions = 5;
  int64_t chunk = 512;
  ModelFlags load;
};

struct Stats {
  double median = 0, min = 0, max = 0;
};

Stats stats_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const double median = n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  return {median, values.front(), values.back()};
}

// One model on one number of threads.
class Runner {
 public:
  Runner(const model::Model& model, ThreadPool& pool, backend::KernelSet kernels, int64_t chunk)
      : model_(model), context_{pool, scratch_, kernels}, chunk_(chunk) {}

  // Random tokens onto the sequence, `step` at a time; seconds.
  double feed(state::SequenceState& sequence, int64_t tokens, int64_t step) {
    std::vector<float> logits(static_cast<size_t>(model_.spec().vocab_size));
    const auto start = Clock::now();
    for (int64_t done = 0; done < tokens;) {
      const int64_t rows = std::min(step, tokens - done);
      std::vector<int32_t> ids(static_cast<size_t>(rows));
      for (int32_t& id : ids) id = static_cast<int32_t>(rng_.below(model_.spec().vocab_size));
      std::vector<int32_t> positions(static_cast<size_t>(rows));
      std::iota(positions.begin(), positions.end(), static_cast<int32_t>(sequence.position()));
      state::Segment segment;
      segment.start = sequence.position();
      segment.length = rows;
      state::BatchView batch;
      batch.tokens = rows;
      batch.segments = {&segment, 1};
      batch.positions = positions;
      done += rows;
      // The logits of the last prompt token, and of every decoded one, as serving needs them.
      const auto last = static_cast<int32_t>(rows - 1);
      const bool wanted = step == 1 || done == tokens;
      sequence.begin_step(rows, 0);
      state::SequenceState* sequences[] = {&sequence};
      model_.forward(context_, batch, ids, sequences, {&last, wanted ? size_t{1} : size_t{0}},
                     logits.data());
      sequence.commit();
    }
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // Tokens per second of `tokens` tokens fed `step` at a time after `depth` others.
  Stats measure(int64_t tokens, int64_t step, int64_t depth, int repetitions) {
    state::BlockPool blocks;
    state::SequenceState base(model_.layout(), blocks);
    feed(base, depth, chunk_);
    const state::Snapshot snapshot = base.snapshot();
    std::vector<double> rates;
    for (int r = -1; r < repetitions; ++r) {  // the first warms up
      state::SequenceState sequence(model_.layout(), blocks, snapshot);
      const int64_t warm = std::min<int64_t>(tokens, step == 1 ? 4 : tokens);
      const int64_t count = r < 0 ? warm : tokens;
      const double seconds = feed(sequence, count, step);
      if (r >= 0) rates.push_back(static_cast<double>(tokens) / seconds);
    }
    return stats_of(rates);
  }
  int64_t chunk() const { return chunk_; }

 private:
  const model::Model& model_;
  backend::Arena scratch_;
  backend::Context context_;
  int64_t chunk_;
  Rng rng_{1};
};

// What a token costs, from the designs of the layers.
struct TokenWork {
  double matrix_parameters = 0;  // without embedding and output matrix
  double prompt_ops = 0;         // of a prompt token at `position`; logits are wanted once a prompt
  double state_bytes = 0;        // read by a decoded token at `position`
};

TokenWork token_work(const model::Model& model, int64_t position) {
  TokenWork work;
  const auto& spec = model.spec();
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    const auto& design = *model.design().mixers[layer];
    const mixers::Cost cost = design.cost(position);
    const double ffn = 3.0 * static_cast<double>(spec.d_model * spec.layers[layer].ffn.width);
    work.prompt_ops += cost.flops + 2 * ffn;
    work.state_bytes += cost.state_read_bytes;
    work.matrix_parameters += ffn;
    for (const mixers::WeightSpec& weight : design.weights())
      if (weight.matrix)
        work.matrix_parameters += static_cast<double>(weight.shape[0] * weight.shape[1]);
  }
  return work;
}

void print_line(const std::string& test, int64_t depth, int threads, const Stats& stats,
                double limit, const char* bound) {
  fmt::print(
      "{{\"test\":\"{}\",\"depth\":{},\"threads\":{},\"tokens_per_s\":{{\"median\":{:.3f},\"min\":{"
      ":.3f},\"max\":{:.3f}}},"
      "\"limit_tokens_per_s\":{:.3f},\"limit_percent\":{:.2f},\"limit\":\"{}\"}}\n",
      test, depth, threads, stats.median, stats.min, stats.max, limit, 100 * stats.median / limit,
      bound);
  std::fflush(stdout);
}

// The limits: a prompt token's operations over the int8 (quantised weights) or fp32 peak; a decoded
// token's bytes (weights once, state read) over the read bandwidth.
void run_thread_count(const BenchFlags& flags, const model::Model& model, int threads) {
  ThreadPool pool(threads);
  const ops::MachineLimits limits = ops::measure_limits(pool);
  fmt::print(
      "{{\"machine\":{{\"threads\":{},\"read_gb_s\":{:.2f},\"int8_gop_s\":{:.1f},\"fp32_gflop_s\":{"
      ":.1f},\"target\":\"{}\"}},"
      "\"model\":\"{}\",\"weight_bytes\":{}}}\n",
      threads, limits.read_bytes_per_s / 1e9, limits.int8_ops / 1e9, limits.fp32_flops / 1e9,
      active_target(), flags.model.empty() ? flags.preset : flags.model, model.weight_bytes());
  std::fflush(stdout);
  // Weights of about a byte or less multiply in int8.
  const double head = static_cast<double>(model.spec().vocab_size * model.spec().d_model);
  const bool int8 = static_cast<double>(model.step_weight_bytes()) <
                    1.3 * (token_work(model, 0).matrix_parameters + head);
  Runner runner(model, pool, flags.load.kernel_set(), flags.chunk);
  for (const int64_t depth : flags.depths) {
    for (const int64_t prompt : flags.prompts) {
      if (prompt <= 0) continue;
      const Stats stats = runner.measure(prompt, runner.chunk(), depth, flags.repetitions);
      const double peak = int8 ? limits.int8_ops : limits.fp32_flops;
      const double ops = token_work(model, depth + prompt / 2).prompt_ops;
      print_line(fmt::format("pp{}", prompt), depth, threads, stats, peak / ops,
                 int8 ? "int8 peak" : "fp32 peak");
    }
    for (const int64_t output : flags.outputs) {
      if (output <= 0) continue;
      const Stats stats = runner.measure(output, 1, depth, flags.repetitions);
      const double bytes = static_cast<double>(model.step_weight_bytes()) +
                           token_work(model, depth + output / 2).state_bytes;
      print_line(fmt::format("tg{}", output), depth, threads, stats,
                 limits.read_bytes_per_s / bytes, "read bandwidth");
    }
  }
}

int run(const BenchFlags& flags) {
  ThreadPool pool(ThreadPool::available_cpus());
  auto model = flags.preset.empty()
                   ? load_model(flags.load, flags.model, pool)
                   : model::Model::preset(flags.preset, flags.load.options(), pool);
  if (!model) return report(model.error());
  std::vector<int> threads = flags.threads;
  if (threads.empty()) threads.push_back(ThreadPool::available_cpus());
  for (const int count : threads) run_thread_count(flags, **model, count);
  return 0;
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand(
      "bench", "Measure prompt and decode speed against the machine's limits (JSON lines)");
  auto* model = command->add_option("-m,--model", flags->model,
                                    "Model directory, GGUF file or Hugging Face name");
  auto* preset = command->add_option("--preset", flags->preset,
                                     "Random weights in published shapes: NAME[:q4_0|:q8_0]");
  model->excludes(preset);
  command->add_option("-p,--prompt", flags->prompts, "Prompt lengths")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("-n,--output", flags->outputs, "Numbers of decoded tokens")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("-d,--depth", flags->depths, "Tokens already read before each test")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("-t,--threads", flags->threads,
                   "Numbers of threads (default: all CPUs of this process)")
      ->delimiter(',');
  command->add_option("-r,--repetitions", flags->repetitions, "Counted runs of each test")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--chunk", flags->chunk, "Prompt tokens of one step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  flags->load.add_to(*command);
  command->footer(
      "Example: heddle bench --preset lfm2-350m:q4_0 -p 512,8192 -n 128 -d 0,4096 -t 2");
  command->callback([flags] {
    if (flags->model.empty() && flags->preset.empty())
      throw CLI::RequiredError("--model or --preset");
    throw CLI::RuntimeError(run(*flags));
  });
}

}  // namespace heddle::cli
