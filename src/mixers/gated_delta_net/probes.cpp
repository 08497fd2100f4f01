// Everything of a layer between its projections, for benches.
#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "base/check.h"
#include "base/rng.h"
#include "mixers/gated_delta_net/equations.h"

namespace heddle::mixers::gated_delta_net {
namespace {

std::vector<float> random_values(int64_t count, uint64_t seed, float scale = 1) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = scale * rng.normal();
  return values;
}

class MixRun : public sublayer::ProbeRun {
 public:
  MixRun(const Sizes& sizes, int64_t tokens)
      : s_(sizes),
        projected_(random_values(tokens * sizes.projected(), 1)),
        y_(static_cast<size_t>(tokens * sizes.value_width())) {
    std::vector<float> decay = random_values(sizes.value_heads, 3);
    for (float& value : decay) value = -std::exp(value);
    std::vector<float> norm = random_values(sizes.value_dim, 5, 0.2f);
    for (float& value : norm) value += 1;
    weights_ = {vector(random_values(sizes.taps * sizes.channels(), 2, 0.5f)), vector(decay),
                vector(random_values(sizes.value_heads, 4)), vector(norm)};
  }

  void run(backend::Context& ctx, const state::BatchView& batch,
           const state::StateView& state) override {
    MixArgs args(s_, weights_);
    args.set_step(batch, state, projected_.data(), y_.data());
    ctx.reference() ? ref::mix(ctx, args) : cpu::mix(ctx, args);
  }

  std::span<const float> output() const override { return y_; }

  std::vector<float> naive() const override {
    std::vector<std::vector<float>> rows;
    for (auto at = projected_.begin(); at != projected_.end(); at += s_.projected())
      rows.emplace_back(at, at + s_.projected());
    std::vector<float> all;
    for (const auto& row : recurrence<float>(MixArgs(s_, weights_), rows))
      all.insert(all.end(), row.begin(), row.end());
    return all;
  }

 private:
  tensor::Vector vector(const std::vector<float>& values) {
    auto stored = tensor::Vector::of(values, memory_);
    HEDDLE_CHECK(stored.has_value(), "{}", stored.error().message);
    return *stored;
  }

  Sizes s_;
  backend::WeightMemory memory_;
  std::vector<float> projected_;
  Weights weights_;
  std::vector<float> y_;
};

sublayer::Probe mix_probe(const Sizes& sizes, int64_t depth, int64_t tokens) {
  const state::Segment segment{0, depth, tokens, 0, {}};
  sublayer::Probe probe;
  probe.kernel = "delta rule";
  probe.shape = fmt::format("{}/{} heads {}x{} at {}", sizes.key_heads, sizes.value_heads,
                            sizes.key_dim, sizes.value_dim, depth);
  probe.parts = state_parts(sizes);
  probe.depth = depth;
  probe.tokens = tokens;
  probe.work = mix_work(sizes, {tokens, {&segment, 1}, {}});
  probe.make = [sizes](int64_t rows) { return std::make_unique<MixRun>(sizes, rows); };
  return probe;
}

}  // namespace

std::vector<sublayer::Probe> probes() {
  Sizes sizes;
  sizes.d_model = 1024;
  sizes.key_heads = sizes.value_heads = 16;
  sizes.key_dim = sizes.value_dim = 128;
  return {mix_probe(sizes, 64, 512), mix_probe(sizes, 64, 1),  // just after a fold
          mix_probe(sizes, 64 + 16, 1),   // half of the records of a block: the average step
          mix_probe(sizes, 64 + 31, 1)};  // all records of a block, and a fold
}

}  // namespace heddle::mixers::gated_delta_net
