// Rows of q, k and v as most rules make them, compiled per target (see backend/simd/simd.h): a
// slice of a convolution with SiLU, a scaled row. Rows are padded with zeros to whole lanes.
#include <hwy/cache_control.h>

#include <cmath>
#include <cstdint>

#include "backend/simd/math-inl.h"
#include "ops/conv/causal_conv-inl.h"
#include "ops/conv/causal_conv.h"
#include "ops/linear_attention/linear_attention.h"

#if defined(HEDDLE_LINEAR_ATTENTION_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_LINEAR_ATTENTION_ROWS_INL_H
#undef HEDDLE_LINEAR_ATTENTION_ROWS_INL_H
#else
#define HEDDLE_LINEAR_ATTENTION_ROWS_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops::linear_attention {
namespace HWY_NAMESPACE {

namespace math = backend::HWY_NAMESPACE;
using math::F32x16;

// Rows of projections that are fetched ahead of use: the slices of successive rows lie pages apart,
// out of reach of the hardware's prefetcher.
constexpr int64_t kRowsAhead = 6;

HWY_INLINE void prefetch(const float* x, int64_t width) {
  for (int64_t c = 0; c < width; c += kLanes) hwy::Prefetch(x + c);
}

// out = silu(conv) of channels [channel, channel + width) of a row. Returns the sum of its squares.
// One body for q, k and v: three inlined ones cost prefill 4%.
inline HWY_NOINLINE float convolve(const CausalConvArgs& conv, const Row& row, int64_t channel,
                                   int64_t width, float* out) {
  ops::HWY_NAMESPACE::ConvRow in;
  for (int64_t j = 0; j < conv.taps; ++j) {
    const float* x = causal_conv_tap(conv, row.segment, row.index, conv.taps - 1 - j);
    in.x[j] = x == nullptr ? nullptr : x + channel;
  }
  if (row.index + kRowsAhead < conv.batch->segments[static_cast<size_t>(row.segment)].length)
    prefetch(conv.x + (row.batch + kRowsAhead) * conv.x_stride + channel, width);
  in.weights = conv.weights + channel;
  in.weights_stride = conv.channels;
  in.bias = conv.bias == nullptr ? nullptr : conv.bias + channel;
  F32x16 squares = math::zero16();
  F32x16* sum = &squares;
  ops::HWY_NAMESPACE::conv_row(in, conv.taps, width, [=](int64_t c, F32x16 x, int64_t) HWY_ATTR {
    const F32x16 y = math::silu(x);  // silu(0) = 0 keeps the padding
    math::store16(y, out + c);
    *sum = math::fma(y, y, *sum);
  });
  return math::sum(squares);
}

// x [pad_lanes(width)] *= scale
HWY_INLINE void scale_row(float* x, int64_t width, float scale) {
  for (int64_t c = 0; c < width; c += 16)
    math::store16(math::mul(math::load16(x + c), math::set16(scale)), x + c);
}

static float softplus(float x) { return (x > 0 ? x : 0.0f) + std::log1p(std::exp(-std::abs(x))); }
static float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops::linear_attention
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
