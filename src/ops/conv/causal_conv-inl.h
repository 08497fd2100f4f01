// One row of a depthwise convolution, compiled per target (see simd.h).
#include <cstdint>

#include "backend/simd/math-inl.h"

#if defined(HEDDLE_OPS_CAUSAL_CONV_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_CAUSAL_CONV_INL_H
#undef HEDDLE_OPS_CAUSAL_CONV_INL_H
#else
#define HEDDLE_OPS_CAUSAL_CONV_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

// What the channels of a range read: inputs of the row and its ancestors (oldest first; nullptr:
// zeros), weights [taps] rows, all already moved to the first channel of the range.
struct ConvRow {
  const float* x[16];
  const float* weights = nullptr;  // row stride weights_stride
  int64_t weights_stride = 0;
  const float* bias = nullptr;  // nullptr: zeros
};

// kTaps > 0: known when compiled; 0: `taps`.
template <int kTaps>
HWY_INLINE F32x16 conv_lanes(const ConvRow& row, int64_t taps, int64_t c) {
  F32x16 acc = row.bias == nullptr ? zero16() : load16(row.bias + c);
  if constexpr (kTaps > 0) taps = kTaps;
#pragma GCC unroll 4
  for (int64_t j = 0; j < taps; ++j)
    if (row.x[j] != nullptr)
      acc = fma(load16(row.weights + j * row.weights_stride + c), load16(row.x[j] + c), acc);
  return acc;
}

// The same for the last, incomplete group of lanes.
HWY_INLINE F32x16 conv_lanes_partial(const ConvRow& row, int64_t taps, int64_t c, int64_t count) {
  F32x16 acc = row.bias == nullptr ? zero16() : load16_partial(row.bias + c, count);
  for (int64_t j = 0; j < taps; ++j)
    if (row.x[j] != nullptr)
      acc = fma(load16_partial(row.weights + j * row.weights_stride + c, count),
                load16_partial(row.x[j] + c, count), acc);
  return acc;
}

// emit(c, lanes, count) for each group of `count` <= 16 channels of [0, channels). Lanes beyond
// count are 0.
template <class Emit>
HWY_INLINE void conv_row(const ConvRow& row, int64_t taps, int64_t channels, Emit emit) {
  int64_t c = 0;
  if (taps == 4) {
    for (; c + 16 <= channels; c += 16) emit(c, conv_lanes<4>(row, 4, c), int64_t{16});
  } else if (taps == 3) {
    for (; c + 16 <= channels; c += 16) emit(c, conv_lanes<3>(row, 3, c), int64_t{16});
  } else {
    for (; c + 16 <= channels; c += 16) emit(c, conv_lanes<0>(row, taps, c), int64_t{16});
  }
  if (c < channels) emit(c, conv_lanes_partial(row, taps, c, channels - c), channels - c);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
