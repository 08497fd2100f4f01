#include "bench/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/rng.h"
#include "state/step.h"

namespace heddle::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kSteps = 8;  // of one measurement

class Runner {
 public:
  Runner(const model::Model& model, ThreadPool& pool, backend::KernelSet kernels)
      : model_(model), context_{pool, scratch_, kernels}, batch_(model.layout()) {}

  // Sequences of the measurements that follow begin at this depth.
  void prepare(int64_t depth) {
    constexpr int64_t kChunk = 512;
    state::SequenceState base(model_.layout(), blocks_);
    while (base.position() < depth) {
      state::SequenceState* sequence = &base;
      step({&sequence, 1}, std::min(kChunk, depth - base.position()), false);
    }
    start_ = base.snapshot();
  }

  // Seconds of a step of `rows` sequences, one token each.
  double measure(int64_t rows) {
    std::vector<state::SequenceState> sequences;
    std::vector<state::SequenceState*> pointers;
    sequences.reserve(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i)
      pointers.push_back(&sequences.emplace_back(model_.layout(), blocks_, start_));
    const auto start = Clock::now();
    for (int64_t i = 0; i < kSteps; ++i) step(pointers, 1, true);
    return std::chrono::duration<double>(Clock::now() - start).count() / kSteps;
  }

 private:
  // `length` random tokens of each sequence.
  void step(std::span<state::SequenceState* const> sequences, int64_t length, bool logits) {
    std::vector<int32_t> ids(static_cast<size_t>(length));
    batch_.clear();
    for (state::SequenceState* sequence : sequences) {
      for (int32_t& id : ids) id = static_cast<int32_t>(rng_.below(model_.spec().vocab_size));
      batch_.add(*sequence, ids, {length - 1, logits ? 1 : 0});
    }
    logits_.resize(batch_.rows().size() * static_cast<size_t>(model_.spec().vocab_size));
    model_.forward(context_, batch_, logits_.data());
    for (int64_t i = 0; i < batch_.segments(); ++i) batch_.commit(i);
  }

  const model::Model& model_;
  backend::Arena scratch_;
  backend::Context context_;
  state::StepBatch batch_;
  Rng rng_{1};
  std::vector<float> logits_;
  state::BlockPool blocks_;
  state::Snapshot start_;
};

void run_depth(Runner& runner, int64_t depth, int threads, const RowOptions& options,
               const Output& output) {
  runner.prepare(depth);
  runner.measure(*std::max_element(options.rows.begin(), options.rows.end()));  // warms up
  std::vector<std::vector<double>> seconds(options.rows.size());
  std::vector<std::vector<double>> ratios(options.rows.size());
  for (int r = 0; r < options.repetitions; ++r) {
    const double one = runner.measure(1);
    for (size_t i = 0; i < options.rows.size(); ++i) {
      seconds[i].push_back(options.rows[i] == 1 ? one : runner.measure(options.rows[i]));
      ratios[i].push_back(seconds[i].back() / one);
    }
  }
  for (size_t i = 0; i < options.rows.size(); ++i) {
    const Stats time = stats_of(seconds[i]);
    const Stats ratio = stats_of(ratios[i]);
    output.line({{"rows", options.rows[i]},
                 {"depth", depth},
                 {"threads", int64_t{threads}},
                 {"seconds", time},
                 {"of_one_row", ratio}},
                fmt::format("{:4} rows at depth {:6}  {:9.3f} ms ({:.3f} to {:.3f})  {:5.2f} steps "
                            "of one row ({:.2f} to {:.2f})",
                            options.rows[i], depth, 1e3 * time.median, 1e3 * time.min,
                            1e3 * time.max, ratio.median, ratio.min, ratio.max));
  }
}

}  // namespace

void run_rows(const model::Model& model, const std::string& name, const RowOptions& options,
              const Output& output) {
  std::vector<int> threads = options.threads;
  if (threads.empty()) threads.push_back(ThreadPool::available_cpus());
  for (const int count : threads) {
    ThreadPool pool(count);
    const backend::MachineLimits machine = backend::measure_limits(pool);
    output.line(
        {machine_field(machine, count), {"model", name}, {"weight_bytes", model.weight_bytes()}},
        fmt::format("{}\n{}", name, machine_text(machine, count)));
    Runner runner(model, pool, options.kernels);
    for (const int64_t depth : options.depths) run_depth(runner, depth, count, options, output);
  }
}

}  // namespace heddle::bench
