// Gated DeltaNet: parameters, weights, state parts and cost; the mathematics is in ref.cpp and
// cpu.cpp, the equations in README.md.
#include <utility>

#include "mixers/gated_delta_net/kernels.h"
#include "ops/work.h"
#include "sublayer/stacked_projection.h"

namespace heddle::mixers {
namespace gated_delta_net {
namespace {

class GatedDeltaNet : public sublayer::SubLayer {
 public:
  // in: [q | k | v | z | b | a]; out [D, HV V]
  GatedDeltaNet(const Sizes& sizes, sublayer::StackedProjection in, ops::PackedMatrix out,
                Weights weights)
      : sizes_(sizes), in_(std::move(in)), out_(std::move(out)), weights_(std::move(weights)) {}

  void forward(backend::Context& ctx, const state::BatchView& batch, tensor::ConstRows x,
               const state::StateView& state, tensor::Rows y) const override {
    if (batch.tokens == 0) return;
    const backend::ArenaScope scope(ctx.scratch);
    const tensor::Rows projected =
        tensor::scratch_rows(ctx.scratch, batch.tokens, sizes_.projected());
    const tensor::Rows mixed =
        tensor::scratch_rows(ctx.scratch, batch.tokens, sizes_.value_width());
    in_.project(ctx, "delta in", x, projected);
    MixArgs args(sizes_, weights_);
    args.set_step(batch, state, projected.f32(), mixed.f32());
    {
      const backend::ProfileScope part(ctx, "delta rule", [&] { return mix_work(sizes_, batch); });
      ctx.reference() ? ref::mix(ctx, args) : cpu::mix(ctx, args);
    }
    ops::project(ctx, "delta out", mixed, out_, y);
  }

  int64_t weight_bytes() const override {
    return in_.bytes() + out_.bytes() + weights_.conv.bytes() + weights_.decay.bytes() +
           weights_.dt_bias.bytes() + weights_.norm.bytes();
  }

 private:
  Sizes sizes_;
  sublayer::StackedProjection in_;
  ops::PackedMatrix out_;
  Weights weights_;
};

class Design : public sublayer::Design {
 public:
  explicit Design(const Sizes& sizes) : s_(sizes) {}

  std::vector<state::StatePart> state_parts() const override {
    return gated_delta_net::state_parts(s_);
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

  sublayer::Cost cost(int64_t position) const override {
    const auto weights = static_cast<double>((s_.projected() + s_.value_width()) * s_.d_model);
    const auto conv = static_cast<double>(s_.channels());
    const auto taps = static_cast<double>(s_.taps);
    sublayer::Cost cost;
    cost.flops =
        2 * weights + 2 * conv * taps + s_.token_flops(static_cast<double>(position % kFold));
    cost.state_read_bytes = s_.token_read_bytes(position) + 4 * conv * (taps - 1);
    cost.state_write_bytes = s_.token_write_bytes() + 4 * conv;
    return cost;
  }

  Result<std::unique_ptr<sublayer::SubLayer>> bind(ThreadPool& pool, sublayer::WeightSource& source,
                                                   const ops::PackOptions& options) const override {
    HEDDLE_TRY(auto in, sublayer::StackedProjection::bind(pool, source, kInputs, 2, options));
    HEDDLE_TRY(const ops::MatrixSource matrix, source.matrix("out_proj"));
    HEDDLE_TRY(auto out, ops::pack(pool, std::span(&matrix, 1), options));
    HEDDLE_TRY(Weights weights, read_weights(source, s_, *options.memory));
    return std::make_unique<GatedDeltaNet>(s_, std::move(in), std::move(out), std::move(weights));
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
  const std::pair<const char*, int64_t*> fields[] = {
      {"d_model", &s.d_model}, {"key_heads", &s.key_heads}, {"value_heads", &s.value_heads},
      {"key_dim", &s.key_dim}, {"value_dim", &s.value_dim}, {"taps", &s.taps}};
  for (const auto& [name, field] : fields) {
    HEDDLE_TRY(*field, params.integer(name));
  }
  if (s.d_model < 1 || s.d_model > (int64_t{1} << 20))
    return fail("gated_delta_net: d_model is {}, expected 1 to 2^20", s.d_model);
  if (s.taps < 2 || s.taps > ops::kMaxConvTaps)
    return fail("gated_delta_net: taps is {}, expected 2 to {}", s.taps, ops::kMaxConvTaps);
  HEDDLE_TRY_STATUS(s.validate("gated_delta_net"));
  HEDDLE_TRY(s.norm_eps, params.number("norm_eps"));
  if (!(s.norm_eps >= 0)) return fail("gated_delta_net: norm_eps is {}, expected >= 0", s.norm_eps);
  s.tiled = params.flag_or("tiled", false);
  return s;
}

Result<Weights> read_weights(sublayer::WeightSource& source, const Sizes& s,
                             backend::WeightMemory& memory) {
  Weights w;
  HEDDLE_TRY(const std::vector<float> conv, source.values("conv"));
  HEDDLE_TRY(w.conv, tensor::Vector::of(ops::transpose_taps(conv, s.channels(), s.taps), memory));
  HEDDLE_TRY(const std::vector<float> decay, source.values("decay"));
  for (size_t h = 0; h < decay.size(); ++h)
    if (!(decay[h] <= 0))
      return fail("gated_delta_net: decay[{}] is {}, expected -exp(A_log) <= 0", h, decay[h]);
  HEDDLE_TRY(w.decay, tensor::Vector::of(decay, memory));
  HEDDLE_TRY(w.dt_bias, source.vector("dt_bias", memory));
  HEDDLE_TRY(w.norm, source.vector("norm", memory));
  return w;
}

std::vector<state::StatePart> state_parts(const Sizes& s) {
  return {ops::causal_conv_part("conv", s.channels(), s.taps), linear::fold_part("delta", s)};
}

backend::Work mix_work(const Sizes& s, const state::BatchView& batch) {
  backend::Work work = linear::fold_work(s, batch);
  work.fp32_flops += 2 * static_cast<double>(batch.tokens * s.channels() * s.taps);
  work.bytes += 4 * static_cast<double>(std::ssize(batch.segments) * s.channels() * (s.taps - 1));
  return work;
}

}  // namespace gated_delta_net

const sublayer::Kind& gated_delta_net_kind() {
  using namespace gated_delta_net;
  static const sublayer::Kind kind{"gated_delta_net", make_design, cases, naive, probes};
  return kind;
}

}  // namespace heddle::mixers
