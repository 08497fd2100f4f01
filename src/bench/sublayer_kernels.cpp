// Whole sub-layers of every kind at the sizes of real layers, and the kernels inside that a kind
// wants measured by themselves.
#include <fmt/format.h>

#include <algorithm>

#include "backend/weight_memory.h"
#include "bench/kernel_suite.h"
#include "ops/naive.h"
#include "sublayer/kind_table.h"
#include "sublayer/naive.h"
#include "sublayer/random_weights.h"

namespace heddle::bench {
namespace {

// One case of a kind with random weights.
class Layer {
 public:
  Layer(KernelSuite& suite, const sublayer::Kind& kind, const sublayer::Case& from,
        const sublayer::Design& design)
      : suite_(suite), kind_(kind), case_(from), design_(design), weights_(design, 1, from) {
    auto bound = design.bind(suite.context().pool, weights_, {.memory = &memory_});
    if (bound) body_ = std::move(*bound);
    width_ = *from.params.integer("d_model");
  }
  bool bound() const { return body_ != nullptr; }
  int64_t weight_bytes() const { return body_->weight_bytes(); }

  void run(backend::Context& ctx, const Sequences& sequences, int64_t i,
           const std::vector<float>& x, std::vector<float>& y) const {
    y.resize(x.size());
    const state::StateView view = sequences.view(i);
    const int64_t tokens = sequences.batch().tokens;
    body_->forward(ctx, sequences.batch(), {x.data(), tokens, width_}, view,
                   {y.data(), tokens, width_});
  }

  std::vector<float> rows(int64_t tokens) const { return random_values(tokens * width_, 2); }

  // Of a few rows of a sequence from its start.
  double accuracy(backend::Context& ctx) {
    constexpr int64_t kTokens = 6;
    const std::vector<float> x = rows(kTokens);
    const auto outputs = [&](backend::KernelSet kernels) {
      const Sequences sequences(design_.state_parts(), 1, 0, kTokens);
      backend::Context own{ctx.pool, ctx.scratch, kernels};
      std::vector<float> y;
      run(own, sequences, 0, x, y);
      return y;
    };
    const std::vector<float> naive =
        kind_.naive({ctx, case_.params, case_.precision, weights_, kTokens, x});
    return error_over_budget(outputs(backend::KernelSet::cpu), naive,
                             outputs(backend::KernelSet::reference));
  }

  void measure(int64_t depth, int64_t tokens) {
    KernelCase c;
    c.kernel = kind_.name;
    c.shape = fmt::format("{} at {}", case_.name, depth);
    c.tokens = tokens;
    const sublayer::Cost cost = design_.cost(depth + tokens / 2);
    const auto steps = static_cast<double>(tokens);
    (case_.weights == DType::f32 ? c.work.fp32_flops : c.work.int8_ops) = cost.flops * steps;
    c.work.bytes = static_cast<double>(weight_bytes()) + cost.state_read_bytes;
    if (!suite_.wants(c.kernel, c.shape, c.work)) return;
    const Sequences sequences(design_.state_parts(), 1, depth, tokens);
    const std::vector<float> x = rows(tokens);
    std::vector<float> y;
    if (tokens == 1) c.accuracy = [this](backend::Context& ctx) { return accuracy(ctx); };
    c.call = [&](backend::Context& ctx, int64_t) { run(ctx, sequences, 0, x, y); };
    suite_.measure(c);
  }

 private:
  KernelSuite& suite_;
  const sublayer::Kind& kind_;
  const sublayer::Case& case_;
  const sublayer::Design& design_;
  sublayer::RandomWeights weights_;
  backend::WeightMemory memory_;
  std::unique_ptr<sublayer::SubLayer> body_;
  int64_t width_ = 0;
};

double probe_accuracy(backend::Context& ctx, const sublayer::Probe& probe) {
  const int64_t tokens = std::min<int64_t>(probe.tokens, 70);
  const auto rows = probe.make(tokens);
  const std::vector<float> naive = rows->naive();
  const auto outputs = [&](backend::KernelSet kernels) {
    const Sequences sequences(probe.parts, 1, 0, tokens);
    backend::Context own{ctx.pool, ctx.scratch, kernels};
    rows->run(own, sequences.batch(), sequences.view(0));
    return std::vector<float>(rows->output().begin(), rows->output().end());
  };
  return error_over_budget(outputs(backend::KernelSet::cpu), naive,
                           outputs(backend::KernelSet::reference));
}

void measure_probe(KernelSuite& suite, const sublayer::Probe& probe) {
  KernelCase c;
  c.kernel = probe.kernel;
  c.shape = probe.shape;
  c.tokens = probe.tokens;
  c.work = probe.work;
  if (!suite.wants(c.kernel, c.shape, c.work)) return;
  const int64_t count = probe.tokens > 64 ? 1 : copies_beyond_caches(probe.work.bytes);
  const Sequences sequences(probe.parts, count, probe.depth, probe.tokens);
  const auto rows = probe.make(probe.tokens);
  c.accuracy = [&](backend::Context& ctx) { return probe_accuracy(ctx, probe); };
  c.call = [&](backend::Context& ctx, int64_t i) {
    const state::StateView view = sequences.view(i % count);
    rows->run(ctx, sequences.batch(), view);
  };
  suite.measure(c);
}

}  // namespace

void sublayer_kernels(KernelSuite& suite) {
  for (const sublayer::Kind* kind : sublayer::kind_table()) {
    if (kind->probes != nullptr)
      for (const sublayer::Probe& probe : kind->probes()) measure_probe(suite, probe);
    for (const sublayer::Case& from : kind->cases()) {
      if (!from.bench || !suite.wants(std::string(kind->name), from.name + " at ", {})) continue;
      const auto design = sublayer::make_design(*kind, from.params, from.precision);
      if (!design) continue;
      Layer layer(suite, *kind, from, **design);
      if (!layer.bound()) continue;
      layer.measure(0, 512);
      layer.measure(512 + 16, 1);
    }
  }
}

}  // namespace heddle::bench
