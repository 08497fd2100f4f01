// The fold of a block, compiled per target (see backend/simd/simd.h):
//   S' = e_F S + sum_j (e_Fj k_j) u_j^T
// by panels of 16 columns, j in order. One kernel, whether the block's last token is of a prompt,
// decoded or a draft. Floor: S read and written once, 2 K V FLOPs per token.
#include <algorithm>

#include "ops/linear_attention/scratch.h"
#include "ops/linear_attention/shape.h"
#include "ops/linear_attention/tiles-inl.h"

#if defined(HEDDLE_LINEAR_ATTENTION_FOLD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_LINEAR_ATTENTION_FOLD_INL_H
#undef HEDDLE_LINEAR_ATTENTION_FOLD_INL_H
#else
#define HEDDLE_LINEAR_ATTENTION_FOLD_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops::linear_attention {
namespace HWY_NAMESPACE {

// x[i] = e^{x[i]}; x has room for whole lanes.
HWY_INLINE void exp_row(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) math::store16(math::exp(math::load16(x + i)), x + i);
}

// What a fold adds and keeps: weight[j] = e_Fj k_j, last = e_F. cumulative [F]: log decays since
// the boundary.
template <int64_t kFold>
void fold_weights(const FoldShape& s, const float* const* keys, const double* cumulative,
                  float* weight, float* last) {
  HWY_ALIGN float e[kFold + 16];
  const double whole = cumulative[kFold - 1];
  for (int64_t j = 0; j < kFold; ++j)
    e[j] = std::min(static_cast<float>(whole - cumulative[j]), 0.0f);
  for (int64_t j = kFold; j < kFold + 16; ++j) e[j] = static_cast<float>(whole);
  exp_row(e, kFold + 16);
  for (int64_t j = 0; j < kFold; ++j)
    for (int64_t k = 0; k < s.key_pad(); k += 16)
      math::store16(math::mul(math::set16(e[j]), math::load16(keys[j] + k)),
                    weight + j * s.key_pad() + k);
  last[0] = e[kFold];
}

// The same with a decay per channel: decay [F, Kp].
template <int64_t kFold>
void fold_weights_by_channel(const FoldShape& s, const float* const* keys, const float* decay,
                             float* weight, float* last) {
  const int64_t pad = s.key_pad();
  for (int64_t c = 0; c < pad; c += 16) {
    F32x16 product = math::set16(1.0f);
    for (int64_t j = kFold - 1; j >= 0; --j) {
      math::store16(math::mul(product, math::load16(keys[j] + c)), weight + j * pad + c);
      product = math::mul(product, math::load16(decay + j * pad + c));
    }
    math::store16(product, last + c);
  }
}

// One panel [K][16] of the next summary from the one before and u [F][16].
template <class Rule>
void fold_panel(const FoldShape& s, const float* state, const Scratch& tmp, float* next) {
  constexpr bool kChannels = Rule::kDecay == Decay::channel;
  const int64_t stride = s.key_pad();
  for (int64_t k = 0; k < s.key_dim; k += kTile) {
    const float* from = state == nullptr ? nullptr : state + k * kLanes;
    float* to = next + k * kLanes;
    const float *w = tmp.weight + k, *u = tmp.u, *decay = kChannels ? tmp.last + k : tmp.last;
    with_rows(std::min<int64_t>(kTile, s.key_dim - k), [=]<int kRows>() HWY_ATTR {
      fold_tile<kRows, kChannels>(from, decay, w, stride, u, Rule::kFold, to);
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops::linear_attention
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
