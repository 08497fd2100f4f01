// The rules of toy_rules_test.h over rows of lanes.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_attention/toy_rules_test.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target.
#include "ops/linear_attention/chunk-inl.h"
#include "ops/linear_attention/gated_norm-inl.h"
#include "ops/linear_attention/toy_rules_test.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::ops::linear_attention::toy {
namespace HWY_NAMESPACE {

namespace lanes = linear_attention::HWY_NAMESPACE;
namespace math = backend::HWY_NAMESPACE;

// What the three have in common.
class ToyRule {
 public:
  static constexpr int64_t kFold = 32;
  static constexpr bool kSkips = false;

  explicit ToyRule(const Args& args) : args_(args), s_(args.sizes) {}

  void key(const Row& row, int64_t head, float* k) const {
    activated(row, s_.key_at(head), s_.key_dim, k);
  }
  void query(const Row& row, int64_t head, float* q) const {
    activated(row, s_.query_at(head), s_.key_dim, q);
  }
  void value(const Row& row, int64_t head, float* v) const {
    load(row, s_.value_at(head), s_.value_dim, v);
  }

 protected:
  const float* at(int64_t row, int64_t column) const {
    return args_.projected + row * s_.projected() + column;
  }
  float* load(const Row& row, int64_t column, int64_t width, float* out) const {
    const float* x = at(row.batch, column);
    for (int64_t c = 0; c < width; c += 16)
      math::store16(lanes::load_group(x + c, std::min<int64_t>(16, width - c)), out + c);
    return out;
  }
  void activated(const Row& row, int64_t column, int64_t width, float* out) const {
    load(row, column, width, out);
    for (int64_t c = 0; c < width; c += 16)
      math::store16(math::silu(math::load16(out + c)), out + c);
  }
  lanes::NormRow norm(int64_t row, int64_t head, int64_t heads, float* o) const {
    lanes::NormRow norm;
    norm.heads = heads;
    norm.width = s_.value_dim;
    norm.eps = kEps;
    norm.o = o;
    norm.o_stride = s_.value_pad();
    norm.weight = args_.norm;
    norm.weight_stride = s_.value_dim;
    norm.z = at(row, s_.gate_at(head));
    norm.y = args_.y + row * s_.value_width() + head * s_.value_dim;
    return norm;
  }

  const Args& args_;
  const Sizes& s_;
};

class LightningRule : public ToyRule {
 public:
  using ToyRule::ToyRule;
  static constexpr Decay kDecay = Decay::constant;
  static constexpr bool kCorrects = false;
  static constexpr Finish kFinish = Finish::row;

  float strength(const Row&, int64_t) const { return 1; }
  float log_decay(int64_t head) const { return args_.decay[head]; }
  void finish(int64_t row, int64_t, float* o) const {
    lanes::norm_then_gate(norm(row, 0, s_.value_heads, o),
                          [](auto z) HWY_ATTR { return math::sigmoid(z); });
  }
};

class SsdRule : public ToyRule {
 public:
  using ToyRule::ToyRule;
  static constexpr Decay kDecay = Decay::head;
  static constexpr bool kCorrects = false;
  static constexpr bool kSkips = true;
  static constexpr Finish kFinish = Finish::row;

  float strength(const Row& row, int64_t head) const {
    return lanes::softplus(*at(row.batch, s_.strength_at(head)));
  }
  float skip(int64_t head) const { return args_.skip[head]; }
  float log_decay(const Row& row, int64_t head) const {
    return args_.decay[head] * strength(row, head);
  }
  void finish(int64_t row, int64_t, float* o) const {
    lanes::gate_then_norm(norm(row, 0, s_.value_heads, o),
                          [](auto z) HWY_ATTR { return math::silu(z); });
  }
};

class KdaRule : public ToyRule {
 public:
  using ToyRule::ToyRule;
  static constexpr Decay kDecay = Decay::channel;
  static constexpr bool kCorrects = true;
  static constexpr Finish kFinish = Finish::head;

  void key(const Row& row, int64_t head, float* k) const { unit(row, s_.key_at(head), 1, k); }
  void query(const Row& row, int64_t head, float* q) const {
    unit(row, s_.query_at(head), 1.0f / std::sqrt(static_cast<float>(s_.key_dim)), q);
  }
  float strength(const Row& row, int64_t head) const {
    return lanes::sigmoid(*at(row.batch, s_.strength_at(head)));
  }
  void log_decay(const Row& row, int64_t head, float* g) const {
    const float* x = at(row.batch, s_.decay_at(head));
    for (int64_t c = 0; c < s_.key_pad(); ++c)
      g[c] = c < s_.key_dim ? args_.decay[head] * lanes::softplus(x[c]) : 0.0f;
  }
  void finish(int64_t row, int64_t head, float* o) const {
    lanes::norm_then_gate(norm(row, head, 1, o), [](auto z) HWY_ATTR { return math::sigmoid(z); });
  }

 private:
  void unit(const Row& row, int64_t column, float gain, float* out) const {
    load(row, column, s_.key_dim, out);
    math::F32x16 squares = math::zero16();
    for (int64_t c = 0; c < s_.key_dim; c += 16) {
      const math::F32x16 x = math::load16(out + c);
      squares = math::fma(x, x, squares);
    }
    lanes::scale_row(out, s_.key_dim, gain / std::sqrt(math::sum(squares) + 1e-6f));
  }
};

static Kernels<Args> rule_kernels(Kind kind) {
  switch (kind) {
    case Kind::lightning:
      return lanes::kernels<LightningRule, Args>();
    case Kind::ssd:
      return lanes::kernels<SsdRule, Args>();
    default:
      return lanes::kernels<KdaRule, Args>();
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops::linear_attention::toy
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops::linear_attention::toy {
HWY_EXPORT(rule_kernels);

void step(backend::Context& ctx, const Args& args) {
  run_step(ctx, args, HWY_DYNAMIC_DISPATCH(rule_kernels)(args.sizes.kind));
}

}  // namespace heddle::ops::linear_attention::toy
#endif
