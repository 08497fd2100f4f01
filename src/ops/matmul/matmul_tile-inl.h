// What kernels of floats and of blocks share, compiled once per target: loops that are unrolled,
// and where the sums of a tile go.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "backend/simd/simd.h"
#include "ops/matmul/matmul_work.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"

#if defined(HEDDLE_OPS_MATMUL_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_MATMUL_TILE_INL_H
#undef HEDDLE_OPS_MATMUL_TILE_INL_H
#else
#define HEDDLE_OPS_MATMUL_TILE_INL_H
#endif

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

#define HEDDLE_LAMBDA HWY_ATTR __attribute__((always_inline))

template <class F, int... I>
HWY_INLINE void unroll_indices(F& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>()), ...);
}
// Calls f(0) ... f(N - 1) with constants, so that arrays indexed by them live in registers.
template <int N, class F>
HWY_INLINE void unroll(F f) {
  unroll_indices(f, std::make_integer_sequence<int, N>());
}

// A tile and some tokens.
struct TileWork {
  const std::byte* tile;
  const Section* section;
  const MatmulWork* work;
  int64_t token;   // first
  int64_t tokens;  // to be stored; block kernels may compute some more
};

// sums [tokens]: of the tile's rows, to y. Out of line, so that the kernels are small; they hand
// over copies, because an array whose address is known elsewhere does not live in registers.
inline HWY_NOINLINE void store_sums(const TileWork& tw, const F32x16* sums) {
  const MatmulArgs& args = *tw.work->args;
  const Section& s = *tw.section;
  const int64_t index = (tw.tile - tw.work->weights->tile(s, 0)) / s.tile_bytes;
  const int64_t rows = std::min(kTileRows, s.rows - index * kTileRows);
  float* y = args.y + tw.token * args.y_stride + s.first_row + index * kTileRows;
  for (int64_t t = 0; t < tw.tokens; ++t, y += args.y_stride) {
    if (rows == kTileRows) {
      store16(args.accumulate ? add(load16(y), sums[t]) : sums[t], y);
      continue;
    }
    HWY_ALIGN float values[kTileRows];
    store16(sums[t], values);
    for (int64_t r = 0; r < rows; ++r) y[r] = args.accumulate ? y[r] + values[r] : values[r];
  }
}
template <int NT>
HWY_INLINE void store_tile(const TileWork& tw, const F32x16* acc) {
  F32x16 sums[NT];
  unroll<NT>([&](auto t) HEDDLE_LAMBDA { sums[t] = acc[t]; });
  store_sums(tw, sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
