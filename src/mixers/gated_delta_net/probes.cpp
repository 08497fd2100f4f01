// Everything of a layer between its projections, for benches.
#include <fmt/format.h>

#include <cmath>

#include "base/rng.h"
#include "mixers/gated_delta_net/mixer.h"
#include "mixers/gated_delta_net/recurrence.h"

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
        conv_(random_values(sizes.taps * sizes.channels(), 2, 0.5f)),
        decay_(random_values(sizes.value_heads, 3)),
        dt_bias_(random_values(sizes.value_heads, 4)),
        norm_(random_values(sizes.value_dim, 5, 0.2f)),
        y_(static_cast<size_t>(tokens * sizes.value_width())) {
    for (float& value : decay_) value = -std::exp(value);
    for (float& value : norm_) value += 1;
  }

  void run(backend::Context& ctx, const state::BatchView& batch,
           const state::StateView& state) override {
    MixArgs args = weights();
    args.batch = &batch;
    args.state = &state;
    args.y = y_.data();
    ctx.reference() ? ref::mix(ctx, args) : cpu::mix(ctx, args);
  }

  std::span<const float> output() const override { return y_; }

  std::vector<float> naive() const override {
    std::vector<std::vector<float>> rows;
    const auto width = s_.projected();
    for (auto at = projected_.begin(); at != projected_.end(); at += width)
      rows.emplace_back(at, at + width);
    std::vector<float> all;
    for (const auto& row : recurrence<float>(weights(), rows))
      all.insert(all.end(), row.begin(), row.end());
    return all;
  }

 private:
  MixArgs weights() const {
    MixArgs args;
    args.sizes = &s_;
    args.projected = projected_.data();
    args.conv = conv_.data();
    args.decay = decay_.data();
    args.dt_bias = dt_bias_.data();
    args.norm = norm_.data();
    return args;
  }

  Sizes s_;
  std::vector<float> projected_, conv_, decay_, dt_bias_, norm_, y_;
};

sublayer::Probe mix_probe(const Sizes& sizes, int64_t depth, int64_t tokens) {
  const state::Segment segment{0, depth, tokens, 0, {}};
  sublayer::Probe probe;
  probe.kernel = "delta rule";
  probe.shape = fmt::format("{}/{} heads {}x{} at {}", sizes.key_heads, sizes.value_heads,
                            sizes.key_dim, sizes.value_dim, depth);
  probe.parts = {ops::causal_conv_part("conv", sizes.channels(), sizes.taps), delta_part(sizes)};
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
