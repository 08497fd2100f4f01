// What most rules make of o, compiled per target (see backend/simd/simd.h): a norm and a gate, in
// either order.
#include <cmath>
#include <cstdint>

#include "backend/simd/math-inl.h"

#if defined(HEDDLE_LINEAR_ATTENTION_GATED_NORM_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_LINEAR_ATTENTION_GATED_NORM_INL_H
#undef HEDDLE_LINEAR_ATTENTION_GATED_NORM_INL_H
#else
#define HEDDLE_LINEAR_ATTENTION_GATED_NORM_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops::linear_attention {
namespace HWY_NAMESPACE {

namespace math = backend::HWY_NAMESPACE;
using math::F32x16;

// A row of `heads` heads that are normed together.
struct NormRow {
  int64_t heads = 1;
  int64_t width = 0;  // of a head
  float eps = 0;
  float* o = nullptr;    // [heads][width, padded with zeros], row stride o_stride; gate_then_norm
  int64_t o_stride = 0;  // leaves o act(z) in it
  const float* weight =
      nullptr;  // [heads][width], row stride weight_stride; 0: shared by the heads
  int64_t weight_stride = 0;
  const float* z = nullptr;  // [heads][width]
  float* y = nullptr;        // [heads][width]
};

HWY_INLINE F32x16 load_group(const float* p, int64_t count) {
  return count == 16 ? math::load16(p) : math::load16_partial(p, count);
}

// y = f(o / sqrt(mean o^2 + eps) w, head, c, count). Loops of its own and a copy of `given`: out of
// line, with fields read again after every store, this cost prefill 5%.
template <class F>
HWY_INLINE void norm_row(const NormRow& given, F f) {
  const NormRow row = given;
  F32x16 squares = math::zero16();
  for (int64_t h = 0; h < row.heads; ++h)
    for (int64_t c = 0; c < row.width; c += 16) {
      const F32x16 x = math::load16(row.o + h * row.o_stride + c);
      squares = math::fma(x, x, squares);
    }
  const float mean = math::sum(squares) / static_cast<float>(row.heads * row.width);
  const F32x16 scale = math::set16(1.0f / std::sqrt(mean + row.eps));
  for (int64_t h = 0; h < row.heads; ++h)
    for (int64_t c = 0; c < row.width; c += 16) {
      const int64_t count = row.width - c < 16 ? row.width - c : int64_t{16};
      const F32x16 w = load_group(row.weight + h * row.weight_stride + c, count);
      const F32x16 o = math::load16(row.o + h * row.o_stride + c);
      const F32x16 y = f(math::mul(math::mul(o, scale), w), h, c, count);
      float* to = row.y + h * row.width + c;
      count == 16 ? math::store16(y, to) : math::store16_partial(y, to, count);
    }
}

// y = o / sqrt(mean o^2 + eps) w act(z); act: from lanes to lanes.
template <class Act>
HWY_INLINE void norm_then_gate(const NormRow& row, Act act) {
  const float* z = row.z;
  const int64_t width = row.width;
  norm_row(row, [=](F32x16 x, int64_t h, int64_t c, int64_t count)
                    HWY_ATTR { return math::mul(x, act(load_group(z + h * width + c, count))); });
}

// y = x / sqrt(mean x^2 + eps) w, x = o act(z).
template <class Act>
HWY_INLINE void gate_then_norm(const NormRow& row, Act act) {
  for (int64_t h = 0; h < row.heads; ++h)
    for (int64_t c = 0; c < row.width; c += 16) {
      float* o = row.o + h * row.o_stride + c;
      const int64_t count = row.width - c < 16 ? row.width - c : int64_t{16};
      const F32x16 gate = act(load_group(row.z + h * row.width + c, count));
      math::store16(math::mul(math::load16(o), gate), o);
    }
  norm_row(row, [](F32x16 x, int64_t, int64_t, int64_t) HWY_ATTR { return x; });
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops::linear_attention
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
