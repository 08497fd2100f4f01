#include "bench/step.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "backend/profile.h"
#include "base/rng.h"
#include "ops/sample/sample.h"
#include "ops/work.h"
#include "state/step.h"

namespace heddle::bench {
namespace {

using Clock = std::chrono::steady_clock;

// `tokens` tokens, `step` at a time, after `depth` others.
struct Test {
  std::string name;
  int64_t tokens = 0;
  int64_t step = 1;
  int64_t depth = 0;

  bool decodes() const { return step == 1; }
};

// One model on one number of threads.
class Runner {
 public:
  Runner(const model::Model& model, ThreadPool& pool, const StepOptions& options)
      : model_(model),
        context_{pool, scratch_, options.kernels},
        chunk_(options.chunk),
        sampling_(options.sampling),
        batch_(model.layout()) {}

  // A state at the depth of the test, to begin every run from.
  void prepare(const Test& test) {
    if (ready_ && depth_ == test.depth) return;
    state::SequenceState base(model_.layout(), blocks_);
    feed(base, test.depth, chunk_);
    start_ = base.snapshot();
    depth_ = test.depth;
    ready_ = true;
  }

  // As where others were served before: kernels have run, and the memory that blocks are recycled
  // from is the process's own (the system clears it at its first use).
  void warm_up(const Test& test) {
    run(test, std::min<int64_t>(test.tokens, test.decodes() ? 4 : test.step));
    state::SequenceState sequence(model_.layout(), blocks_, start_);
    blocks_.set_poison(true);  // touches it
    sequence.begin_step(test.tokens, 0);
    blocks_.set_poison(false);
  }

  // Seconds of `tokens` of the test's tokens.
  double run(const Test& test, int64_t tokens, backend::Profile* profile = nullptr) {
    state::SequenceState sequence(model_.layout(), blocks_, start_);
    context_.profile = profile;
    const double seconds = feed(sequence, tokens, test.step);
    context_.profile = nullptr;
    return seconds;
  }

 private:
  double feed(state::SequenceState& sequence, int64_t tokens, int64_t step) {
    std::vector<float> logits(static_cast<size_t>(model_.spec().vocab_size));
    const auto start = Clock::now();
    for (int64_t done = 0; done < tokens;) {
      const int64_t rows = std::min(step, tokens - done);
      std::vector<int32_t> ids(static_cast<size_t>(rows));
      for (int32_t& id : ids) id = static_cast<int32_t>(rng_.below(model_.spec().vocab_size));
      done += rows;
      // The logits of the last prompt token, and of every decoded one, as serving needs them.
      const bool wanted = step == 1 || done == tokens;
      batch_.clear();
      batch_.add(sequence, ids, {rows - 1, wanted ? 1 : 0});
      model_.forward(context_, batch_, logits.data());
      batch_.commit(0);
      if (wanted) choose(logits.data(), sequence.position());
    }
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // As after every step of the server; what comes out does not matter here.
  void choose(float* logits, int64_t position) {
    ops::SampleRow row;
    row.logits = logits;
    row.params = &sampling_;
    row.position = position;
    ops::sample(context_, {&row, 1}, model_.spec().vocab_size);
  }

  const model::Model& model_;
  backend::Arena scratch_;
  backend::Context context_;
  int64_t chunk_;
  ops::SamplingParams sampling_;
  state::StepBatch batch_;
  Rng rng_{1};
  state::BlockPool blocks_;
  state::Snapshot start_;
  int64_t depth_ = 0;
  bool ready_ = false;
};

struct Limit {
  double tokens_per_s = 0;
  const char* bound = "";
};

Limit limit_of(const model::Model& model, const Test& test, const backend::MachineLimits& machine) {
  const int64_t middle = test.depth + test.tokens / 2;
  if (test.decodes())
    return {machine.read_bytes_per_s / model.decode_token_bytes(middle), "read bandwidth"};
  const double ops = model.prompt_token_ops(middle);
  if (model.quantized()) return {machine.int8_ops / ops, "int8 peak"};
  return {machine.fp32_flops / ops, "fp32 peak"};
}

void report_test(const Test& test, int threads, const std::vector<double>& rates,
                 const Limit& limit, const Output& output) {
  const Stats stats = stats_of(rates);
  const double percent = 100 * stats.median / limit.tokens_per_s;
  output.line(
      {{"test", test.name},
       {"depth", test.depth},
       {"threads", int64_t{threads}},
       {"tokens_per_s", stats},
       {"samples", rates},
       {"limit_tokens_per_s", limit.tokens_per_s},
       {"limit_percent", percent},
       {"limit", std::string(limit.bound)}},
      fmt::format("{:10} at depth {:6}  {:10.1f} tok/s ({:.1f} to {:.1f})  {:5.1f}% of {}",
                  test.name, test.depth, stats.median, stats.min, stats.max, percent, limit.bound));
}

// The parts of `runs` runs that took `total` seconds together.
void report_profile(const Test& test, int threads, const backend::Profile& profile, int runs,
                    double total, const backend::MachineLimits& machine, const Output& output) {
  std::vector<backend::Profile::Part> parts(profile.parts().begin(), profile.parts().end());
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  parts.push_back({"between the parts", 0, total - profile.seconds(), {}});
  for (const backend::Profile::Part& part : parts) {
    const ops::Limit limit = ops::limit_of(part.work, machine);
    const double seconds = part.seconds / runs;
    const double share = 100 * part.seconds / total;
    const double percent = part.seconds > 0 ? 100 * limit.seconds / part.seconds : 0;
    Record record = {{"profile", test.name},        {"depth", test.depth},
                     {"threads", int64_t{threads}}, {"part", std::string(part.name)},
                     {"calls", part.calls / runs},  {"seconds", seconds},
                     {"share_percent", share}};
    std::string text =
        fmt::format("  {:24} {:8.3f} ms  {:5.1f}%", part.name,
                    1e3 * seconds / static_cast<double>(test.decodes() ? test.tokens : 1), share);
    if (limit.seconds > 0) {
      record.push_back({"limit_percent", percent});
      record.push_back({"limit", std::string(limit.bound)});
      text += fmt::format("  {:5.1f}% of {}", percent, limit.bound);
    }
    output.line(record, text);
  }
}

void run_test(Runner& runner, const model::Model& model, const Test& test, int threads,
              const StepOptions& options, const backend::MachineLimits& machine,
              const Output& output) {
  runner.prepare(test);
  runner.warm_up(test);
  std::vector<double> rates;
  for (int r = 0; r < options.repetitions; ++r)
    rates.push_back(static_cast<double>(test.tokens) / runner.run(test, test.tokens));
  report_test(test, threads, rates, limit_of(model, test, machine), output);
  if (!options.profile) return;
  backend::Profile profile;
  double total = 0;
  for (int r = 0; r < options.repetitions; ++r) total += runner.run(test, test.tokens, &profile);
  report_profile(test, threads, profile, options.repetitions, total, machine, output);
}

void run_thread_count(const model::Model& model, const std::string& name, int threads,
                      const StepOptions& options, const Output& output) {
  ThreadPool pool(threads);
  const backend::MachineLimits machine = backend::measure_limits(pool);
  const std::string sampling =
      options.sampling.greedy() ? "greedy" : "sampled as the server does by default";
  output.line({machine_field(machine, threads),
               {"model", name},
               {"weight_bytes", model.weight_bytes()},
               {"sampling", sampling}},
              fmt::format("{}, {}\n{}", name, sampling, machine_text(machine, threads)));
  Runner runner(model, pool, options);
  for (const int64_t depth : options.depths) {
    for (const int64_t tokens : options.prompts) {
      if (tokens <= 0) continue;
      const Test test{fmt::format("pp{}", tokens), tokens, std::max<int64_t>(2, options.chunk),
                      depth};
      run_test(runner, model, test, threads, options, machine, output);
    }
    for (const int64_t tokens : options.outputs) {
      if (tokens <= 0) continue;
      const Test test{fmt::format("tg{}", tokens), tokens, 1, depth};
      run_test(runner, model, test, threads, options, machine, output);
    }
  }
}

}  // namespace

void run_steps(const model::Model& model, const std::string& name, const StepOptions& options,
               const Output& output) {
  std::vector<int> threads = options.threads;
  if (threads.empty()) threads.push_back(ThreadPool::available_cpus());
  for (const int count : threads) run_thread_count(model, name, count, options, output);
}

}  // namespace heddle::bench
