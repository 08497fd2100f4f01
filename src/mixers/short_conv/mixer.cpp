// LFM2's gated short convolution: [B | C | u] = W_in x; y = W_out(C * conv(B * u)). Equations:
// README.md.
#include "mixers/short_conv/mixer.h"

#include <utility>

#include "backend/profile.h"
#include "mixers/short_conv/kernels.h"
#include "ops/conv/causal_conv.h"
#include "ops/work.h"

namespace heddle::mixers {
namespace short_conv {
namespace {

struct Weights {
  ops::PackedMatrix in;   // [3 D, D]
  ops::PackedMatrix out;  // [D, D]
  tensor::Vector conv;    // [taps, D]
};

class ShortConv : public sublayer::SubLayer {
 public:
  ShortConv(int64_t d_model, int64_t taps, Weights weights)
      : d_model_(d_model), taps_(taps), weights_(std::move(weights)) {}

  void forward(backend::Context& ctx, const state::BatchView& batch, tensor::ConstRows x,
               const state::StateView& state, tensor::Rows y) const override {
    if (batch.tokens == 0) return;
    const backend::ArenaScope scope(ctx.scratch);
    const tensor::Rows projected = tensor::scratch_rows(ctx.scratch, batch.tokens, 3 * d_model_);
    const tensor::Rows mixed = tensor::scratch_rows(ctx.scratch, batch.tokens, d_model_);
    ops::project(ctx, "short conv in", x, weights_.in, projected);
    convolve(ctx, batch, state, projected.f32(), mixed.f32());
    ops::project(ctx, "short conv out", mixed, weights_.out, y);
  }

  int64_t weight_bytes() const override {
    return weights_.in.bytes() + weights_.out.bytes() + weights_.conv.bytes();
  }

 private:
  // mixed [T, D] = C * conv(B * u); projected [T, 3 D] = [B | C | u]
  void convolve(backend::Context& ctx, const state::BatchView& batch, const state::StateView& state,
                float* projected, float* mixed) const {
    const backend::ProfileScope part(ctx, "short conv", [&] {
      const auto channels = static_cast<double>(d_model_), taps = static_cast<double>(taps_);
      return backend::Work{
          .bytes = 4 * channels * (taps - 1) * static_cast<double>(batch.segments.size()),
          .fp32_flops = static_cast<double>(batch.tokens) * channels * (2 * taps + 2)};
    });
    MultiplyArgs product;
    product.a = projected;  // B becomes s = B * u
    product.a_stride = 3 * d_model_;
    product.b = projected + 2 * d_model_;
    product.b_stride = 3 * d_model_;
    product.tokens = batch.tokens;
    product.width = d_model_;
    multiply(ctx, product);

    ops::CausalConvArgs conv;
    conv.batch = &batch;
    conv.state = &state;
    conv.channels = d_model_;
    conv.taps = taps_;
    conv.weights = weights_.conv.data();
    conv.x = projected;
    conv.x_stride = 3 * d_model_;
    conv.y = mixed;
    conv.y_stride = d_model_;
    ops::causal_conv(ctx, conv);

    product.a = mixed;
    product.a_stride = d_model_;
    product.b = projected + d_model_;
    multiply(ctx, product);
  }

  static void multiply(backend::Context& ctx, const MultiplyArgs& args) {
    ctx.reference() ? ref::multiply(ctx, args) : cpu::multiply(ctx, args);
  }

  int64_t d_model_;
  int64_t taps_;
  Weights weights_;
};

class Design : public sublayer::Design {
 public:
  Design(int64_t d_model, int64_t taps) : d_model_(d_model), taps_(taps) {}

  std::vector<state::StatePart> state_parts() const override {
    return {ops::causal_conv_part("conv", d_model_, taps_)};
  }

  std::vector<sublayer::WeightSpec> weights() const override {
    using sublayer::Shard;
    return {{"in_proj", {3 * d_model_, d_model_}, true, {}, Shard::rows},
            {"conv", {d_model_, taps_}, false, {}, Shard::rows},
            {"out_proj", {d_model_, d_model_}, true, {}, Shard::cols}};
  }

  sublayer::Cost cost(int64_t) const override {
    const auto d = static_cast<double>(d_model_), w = static_cast<double>(taps_);
    sublayer::Cost cost;
    cost.flops = 8 * d * d + 2 * w * d + 2 * d;
    cost.state_read_bytes = 4 * (w - 1) * d;
    cost.state_write_bytes = 4 * d;
    return cost;
  }

  Result<std::unique_ptr<sublayer::SubLayer>> bind(ThreadPool& pool, sublayer::WeightSource& source,
                                                   const ops::PackOptions& options) const override {
    Weights w;
    HEDDLE_TRY(ops::MatrixSource in, source.matrix("in_proj"));
    HEDDLE_TRY(w.in, ops::pack(pool, std::span(&in, 1), options));
    HEDDLE_TRY(ops::MatrixSource out, source.matrix("out_proj"));
    HEDDLE_TRY(w.out, ops::pack(pool, std::span(&out, 1), options));
    HEDDLE_TRY(const std::vector<float> conv, source.values("conv"));
    HEDDLE_TRY(w.conv,
               tensor::Vector::of(ops::transpose_taps(conv, d_model_, taps_), *options.memory));
    return std::make_unique<ShortConv>(d_model_, taps_, std::move(w));
  }

 private:
  int64_t d_model_;
  int64_t taps_;
};

Result<std::unique_ptr<sublayer::Design>> make_design(const sublayer::Params& params,
                                                      const sublayer::StatePrecision&) {
  HEDDLE_TRY(const int64_t d_model, params.integer("d_model"));
  HEDDLE_TRY(const int64_t taps, params.integer("taps"));
  if (d_model < 1 || d_model > (int64_t{1} << 20))
    return fail("short_conv: d_model is {}, expected 1 to 2^20", d_model);
  if (taps < 2 || taps > ops::kMaxConvTaps)
    return fail("short_conv: taps is {}, expected 2 to {}", taps, ops::kMaxConvTaps);
  return std::make_unique<Design>(d_model, taps);
}

}  // namespace
}  // namespace short_conv

const sublayer::Kind& short_conv_kind() {
  static const sublayer::Kind kind{"short_conv", short_conv::make_design, short_conv::cases,
                                   short_conv::naive};
  return kind;
}

}  // namespace heddle::mixers
