// The rule of Gated DeltaNet over rows of lanes; who owns what, why it is fast and its floor are
// told at the head of ops/linear_attention/chunk-inl.h. Convolution, SiLU and l2norm of q, k and v,
// gates and gated norm happen inside a head's task, so a row of projections is read once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mixers/gated_delta_net/cpu.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target.
#include <cmath>

#include "mixers/gated_delta_net/kernels.h"
#include "ops/linear_attention/chunk-inl.h"
#include "ops/linear_attention/gated_norm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::mixers::gated_delta_net {
namespace HWY_NAMESPACE {

namespace lanes = ops::linear_attention::HWY_NAMESPACE;
namespace math = backend::HWY_NAMESPACE;

class DeltaRule {
 public:
  static constexpr int64_t kFold = gated_delta_net::kFold;
  static constexpr linear::Decay kDecay = linear::Decay::head;
  static constexpr bool kCorrects = true;
  static constexpr bool kSkips = false;
  static constexpr linear::Finish kFinish = linear::Finish::head;

  explicit DeltaRule(const MixArgs& args)
      : args_(args),
        s_(args.sizes),
        query_scale_(1.0f / std::sqrt(static_cast<float>(s_.key_dim))) {}

  void key(const linear::Row& row, int64_t head, float* k) const {
    const float squares = lanes::convolve(args_.conv, row, s_.key_at(head), s_.key_dim, k);
    lanes::scale_row(k, s_.key_dim, 1.0f / std::sqrt(squares + 1e-6f));
  }
  void query(const linear::Row& row, int64_t head, float* q) const {
    const float squares = lanes::convolve(args_.conv, row, s_.query_at(head), s_.key_dim, q);
    lanes::scale_row(q, s_.key_dim, 1.0f / std::sqrt(squares + 1e-6f) * query_scale_);
  }
  void value(const linear::Row& row, int64_t head, float* v) const {
    lanes::convolve(args_.conv, row, s_.value_at(head), s_.value_dim, v);
  }
  float strength(const linear::Row& row, int64_t head) const {
    return lanes::sigmoid(projected(row.batch)[s_.strength_at(head)]);
  }
  float log_decay(const linear::Row& row, int64_t head) const {
    const float x = projected(row.batch)[s_.decay_at(head)] + args_.weights.dt_bias.data()[head];
    return args_.weights.decay.data()[head] * lanes::softplus(x);
  }
  // y = o / sqrt(mean o^2 + eps) w SiLU(z)
  void finish(int64_t row, int64_t head, float* o) const {
    lanes::NormRow norm;
    norm.width = s_.value_dim;
    norm.eps = static_cast<float>(s_.norm_eps);
    norm.o = o;
    norm.weight = args_.weights.norm.data();
    norm.z = projected(row) + s_.gate_at(head);
    norm.y = args_.y + row * s_.value_width() + head * s_.value_dim;
    if (row + lanes::kRowsAhead < args_.batch->tokens)
      lanes::prefetch(norm.z + lanes::kRowsAhead * s_.projected(), s_.value_dim);
    lanes::norm_then_gate(norm, [](auto z) HWY_ATTR { return math::silu(z); });
  }

 private:
  const float* projected(int64_t row) const { return args_.conv.x + row * s_.projected(); }

  const MixArgs& args_;
  const Sizes& s_;
  float query_scale_;
};

static linear::Kernels<MixArgs> kernels() { return lanes::kernels<DeltaRule, MixArgs>(); }

}  // namespace HWY_NAMESPACE
}  // namespace heddle::mixers::gated_delta_net
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::mixers::gated_delta_net {
HWY_EXPORT(kernels);

void cpu::mix(backend::Context& ctx, const MixArgs& args) {
  linear::run_step(ctx, args, HWY_DYNAMIC_DISPATCH(kernels)());
  ops::causal_conv_store(args.conv);
}

}  // namespace heddle::mixers::gated_delta_net
#endif
