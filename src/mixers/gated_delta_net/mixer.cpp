// Gated DeltaNet: parameters, weights, state parts and cost; the mathematics is in ref.cpp and
// cpu.cpp, the equations in README.md.
#include "mixers/gated_delta_net/mixer.h"

#include <array>
#include <utility>

#include "backend/profile.h"
#include "base/check.h"
#include "mixers/gated_delta_net/kernels.h"
#include "ops/work.h"

namespace heddle::mixers {
namespace gated_delta_net {
namespace {

struct Weights {
  ops::PackedMatrix in;     // [q | k | v | z], and [b | a] unless they are kept apart
  ops::PackedMatrix gates;  // [b | a]; no rows when they are part of `in`
  bool split = false;
  ops::PackedMatrix out;    // [D, HV V]
  std::vector<float> conv;  // [taps, channels]
  std::vector<float> decay, dt_bias, norm;
};

// y [T, N] with row stride y_stride = x [T, K] W^T
void project(backend::Context& ctx, const char* name, const float* x, int64_t tokens,
             const ops::PackedMatrix& weights, float* y, int64_t y_stride) {
  const backend::ProfileScope part(ctx, name, [&] { return ops::product_work(weights, tokens); });
  ops::MatmulArgs args;
  args.x = x;
  args.x_stride = weights.cols();
  args.tokens = tokens;
  args.weights = &weights;
  args.y = y;
  args.y_stride = y_stride;
  ctx.reference() ? ops::ref::matmul(ctx, args) : ops::cpu::matmul(ctx, args);
}

class GatedDeltaNet : public sublayer::SubLayer {
 public:
  GatedDeltaNet(const Sizes& sizes, Weights weights)
      : sizes_(sizes), weights_(std::move(weights)) {}

  void forward(backend::Context& ctx, const state::BatchView& batch, const float* x,
               const state::StateView& state, float* y) const override {
    if (batch.tokens == 0) return;
    const backend::ArenaScope scope(ctx.scratch);
    const int64_t width = sizes_.projected();
    auto* projected = ctx.scratch.allocate<float>(batch.tokens * width);
    auto* mixed = ctx.scratch.allocate<float>(batch.tokens * sizes_.value_width());
    project(ctx, "delta in", x, batch.tokens, weights_.in, projected, width);
    if (weights_.split)
      project(ctx, "delta in", x, batch.tokens, weights_.gates,
              projected + sizes_.channels() + sizes_.value_width(), width);
    MixArgs args;
    args.sizes = &sizes_;
    args.batch = &batch;
    args.state = &state;
    args.projected = projected;
    args.conv = weights_.conv.data();
    args.decay = weights_.decay.data();
    args.dt_bias = weights_.dt_bias.data();
    args.norm = weights_.norm.data();
    args.y = mixed;
    {
      const backend::ProfileScope part(ctx, "delta rule", [&] { return mix_work(sizes_, batch); });
      ctx.reference() ? ref::mix(ctx, args) : cpu::mix(ctx, args);
    }
    project(ctx, "delta out", mixed, batch.tokens, weights_.out, y, sizes_.d_model);
  }

  int64_t weight_bytes() const override {
    const size_t values = weights_.conv.size() + weights_.decay.size() + weights_.dt_bias.size() +
                          weights_.norm.size();
    return weights_.in.bytes() + (weights_.split ? weights_.gates.bytes() : 0) +
           weights_.out.bytes() + static_cast<int64_t>(values * sizeof(float));
  }

 private:
  Sizes sizes_;
  Weights weights_;
};

class Design : public sublayer::Design {
 public:
  explicit Design(const Sizes& sizes) : s_(sizes) {}

  std::vector<state::StatePart> state_parts() const override {
    return {ops::causal_conv_part("conv", s_.channels(), s_.taps), delta_part(s_)};
  }

  std::vector<sublayer::WeightSpec> weights() const override {
    using sublayer::Init;
    using sublayer::Shard;
    return {{"qkv_proj", {s_.channels(), s_.d_model}, true, {}, Shard::rows},
            {"z_proj", {s_.value_width(), s_.d_model}, true, {}, Shard::rows},
            {"b_proj", {s_.value_heads, s_.d_model}, true, {}, Shard::rows},
            {"a_proj", {s_.value_heads, s_.d_model}, true, {}, Shard::rows},
            {"conv", {s_.channels(), s_.taps}, false, {}, Shard::rows},
            // As in trained models: -exp(A_log) of A in 1 .. 16, and steps well below one.
            {"decay", {s_.value_heads}, false, Init::uniform(-16, -1), Shard::rows},
            {"dt_bias", {s_.value_heads}, false, Init::uniform(-4, -1), Shard::rows},
            {"norm", {s_.value_dim}, false, sublayer::kNormInit},
            {"out_proj", {s_.d_model, s_.value_width()}, true, {}, Shard::cols}};
  }

  // Records since the boundary are counted as position mod F; a fold is spread over its F tokens.
  sublayer::Cost cost(int64_t position) const override {
    const auto records = static_cast<double>(position % kFold);
    const auto f = static_cast<double>(kFold);
    const auto kd = static_cast<double>(s_.key_dim), vd = static_cast<double>(s_.value_dim);
    const auto hk = static_cast<double>(s_.key_heads), hv = static_cast<double>(s_.value_heads);
    const auto weights = static_cast<double>((s_.projected() + s_.value_width()) * s_.d_model);
    sublayer::Cost cost;
    cost.flops = 2 * weights + 2 * static_cast<double>(s_.channels() * s_.taps) +
                 hv * (6 * kd * vd + 4 * records * vd) + hk * 4 * records * kd;
    const auto summary = 4.0 * static_cast<double>(s_.summary());
    const auto record = 4.0 * static_cast<double>(s_.record());
    const auto tail = 4.0 * static_cast<double>(s_.channels());
    cost.state_read_bytes =
        summary * (1 + 1 / f) + record * (records + 1) + tail * static_cast<double>(s_.taps - 1);
    cost.state_write_bytes = summary / f + record + tail;
    return cost;
  }

  Result<std::unique_ptr<sublayer::SubLayer>> bind(ThreadPool& pool, sublayer::WeightSource& source,
                                                   const ops::PackOptions& options) const override {
    Weights w;
    std::vector<ops::MatrixSource> in;
    for (const char* name : {"qkv_proj", "z_proj", "b_proj", "a_proj"}) {
      HEDDLE_TRY(ops::MatrixSource matrix, source.matrix(name));
      in.push_back(std::move(matrix));
    }
    // The gates' few rows steer the decay of everything remembered: never requantised.
    w.split = options.quantize != DType::f32;
    const std::span<const ops::MatrixSource> all(in);
    HEDDLE_TRY(w.in, ops::pack(pool, w.split ? all.first(2) : all, options));
    if (w.split) {
      ops::PackOptions exact = options;
      exact.quantize = DType::f32;
      HEDDLE_TRY(w.gates, ops::pack(pool, all.last(2), exact));
    }
    HEDDLE_TRY(ops::MatrixSource out, source.matrix("out_proj"));
    HEDDLE_TRY(w.out, ops::pack(pool, std::span(&out, 1), options));
    HEDDLE_TRY(const std::vector<float> conv, source.values("conv"));
    w.conv = ops::transpose_taps(conv, s_.channels(), s_.taps);
    HEDDLE_TRY(w.decay, source.values("decay"));
    HEDDLE_TRY(w.dt_bias, source.values("dt_bias"));
    HEDDLE_TRY(w.norm, source.values("norm"));
    for (size_t h = 0; h < w.decay.size(); ++h)
      if (!(w.decay[h] <= 0))
        return fail("gated_delta_net: decay[{}] is {}, expected -exp(A_log) <= 0", h, w.decay[h]);
    return std::make_unique<GatedDeltaNet>(s_, std::move(w));
  }

 private:
  Sizes s_;
};

Result<std::unique_ptr<sublayer::Design>> make_design(const sublayer::Params& params,
                                                      const sublayer::StatePrecision&) {
  HEDDLE_TRY(const Sizes sizes, read_sizes(params));
  return std::make_unique<Design>(sizes);
}

}  // namespace

Result<Sizes> read_sizes(const sublayer::Params& params) {
  Sizes s;
  const std::array<std::pair<const char*, int64_t*>, 6> fields = {{{"d_model", &s.d_model},
                                                                   {"key_heads", &s.key_heads},
                                                                   {"value_heads", &s.value_heads},
                                                                   {"key_dim", &s.key_dim},
                                                                   {"value_dim", &s.value_dim},
                                                                   {"taps", &s.taps}}};
  for (const auto& [name, field] : fields) {
    HEDDLE_TRY(*field, params.integer(name));
    if (*field < 1 || *field > (int64_t{1} << 20))
      return fail("gated_delta_net: {} is {}, expected 1 to 2^20", name, *field);
  }
  if (s.taps < 2 || s.taps > ops::kMaxConvTaps)
    return fail("gated_delta_net: taps is {}, expected 2 to {}", s.taps, ops::kMaxConvTaps);
  // A head of this kind is 64 to 256 wide; the bound keeps products of sizes far from overflow.
  if (s.key_dim > 4096 || s.value_dim > 4096 || s.value_heads > 4096)
    return fail("gated_delta_net: {} value heads of {} x {}, expected at most 4096 each",
                s.value_heads, s.key_dim, s.value_dim);
  if (s.value_heads % s.key_heads != 0)
    return fail("gated_delta_net: {} value heads, expected a multiple of the {} key heads",
                s.value_heads, s.key_heads);
  HEDDLE_TRY(s.norm_eps, params.number("norm_eps"));
  if (!(s.norm_eps >= 0)) return fail("gated_delta_net: norm_eps is {}, expected >= 0", s.norm_eps);
  s.tiled = params.flag_or("tiled", false);
  return s;
}

state::StatePart delta_part(const Sizes& s) {
  state::StatePart delta;
  delta.name = "delta";
  delta.growth = state::Growth::folded;
  delta.strips = s.key_heads;
  delta.strip = s.strip();
  delta.page_records = kFold;
  delta.summary_elements = s.summary();
  return delta;
}

// Every segment reads its summary and the records since it; the arithmetic
// is that of a token on average over the block.
backend::Work mix_work(const Sizes& s, const state::BatchView& batch) {
  const auto kd = static_cast<double>(s.key_dim), vd = static_cast<double>(s.value_dim);
  const auto hk = static_cast<double>(s.key_heads), hv = static_cast<double>(s.value_heads);
  const auto f = static_cast<double>(kFold);
  backend::Work work;
  work.fp32_flops =
      static_cast<double>(batch.tokens) * (2 * static_cast<double>(s.channels() * s.taps) +
                                           hv * (6 * kd * vd + 2 * f * vd) + hk * 2 * f * kd);
  for (const state::Segment& segment : batch.segments)
    work.bytes += 4 * static_cast<double>(s.summary() + s.record() * (segment.start % kFold) +
                                          s.channels() * (s.taps - 1));
  return work;
}

}  // namespace gated_delta_net

const sublayer::Kind& gated_delta_net_kind() {
  using namespace gated_delta_net;
  static const sublayer::Kind kind{"gated_delta_net", make_design, cases, naive, probes};
  return kind;
}

}  // namespace heddle::mixers
