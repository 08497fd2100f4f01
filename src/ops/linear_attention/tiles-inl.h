// Register tiles of linear attention, compiled per target (see backend/simd/simd.h). Rows are
// tokens, lanes are 16 columns of the state. An output is one chain of fused steps in a fixed
// order, so the shape of the tile that computes it does not show in its bits.
#include <hwy/cache_control.h>

#include <cstddef>
#include <cstdint>

#include "backend/simd/math-inl.h"

#if defined(HEDDLE_LINEAR_ATTENTION_TILES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_LINEAR_ATTENTION_TILES_INL_H
#undef HEDDLE_LINEAR_ATTENTION_TILES_INL_H
#else
#define HEDDLE_LINEAR_ATTENTION_TILES_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops::linear_attention {
namespace HWY_NAMESPACE {

namespace math = backend::HWY_NAMESPACE;
using math::F32x16;

// Rows of a full tile: 12 registers of sums leave room for operands (AVX2: two registers per row;
// AVX-512: one, of 32).
constexpr int kTile = math::kParts == 1 ? 12 : 6;

// How far ahead decode fetches the state: a little more than a core reads while memory answers.
constexpr int64_t kFetchBytes = 6 << 10;

// Calls f.operator()<n>() with n = rows, 1 <= rows <= kTile.
template <class F>
HWY_INLINE void with_rows(int64_t rows, F f) {
  switch (rows) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    case 5:
      return f.template operator()<5>();
    case 6:
      return f.template operator()<6>();
  }
  if constexpr (kTile == 12) {
    switch (rows) {
      case 7:
        return f.template operator()<7>();
      case 8:
        return f.template operator()<8>();
      case 9:
        return f.template operator()<9>();
      case 10:
        return f.template operator()<10>();
      case 11:
        return f.template operator()<11>();
      case 12:
        return f.template operator()<12>();
    }
  }
}

// out[r][lane] = sum_k a[r][k] panel[k][lane]: kRows rows against a panel of the state, k in order.
// a: row stride a_stride.
template <int kRows>
HWY_NOINLINE void product_tile(const float* HWY_RESTRICT a, int64_t a_stride,
                               const float* HWY_RESTRICT panel, int64_t k_count,
                               float* HWY_RESTRICT out) {
  F32x16 acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r] = math::zero16();
  for (int64_t k = 0; k < k_count; ++k, panel += 16) {
    // One token (q, and k of a rule that corrects) reads the state once, panel after panel, and
    // is bound by how early it is asked for.
    if constexpr (kRows <= 2)
      hwy::Prefetch(reinterpret_cast<const std::byte*>(panel) + kFetchBytes);
    const F32x16 s = math::load16(panel);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const math::VF x = math::hn::Set(math::DF(), a[r * a_stride + k]);
#pragma GCC unroll 16
      for (int i = 0; i < math::kParts; ++i) acc[r].v[i] = math::fma(x, s.v[i], acc[r].v[i]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) math::store16(acc[r], out + r * 16);
}

// Rows t .. t + kRows of a chain, whose row t stands at slot `slot`; u [F][16] holds slots before
// it. c [rows][F]: coefficients of the slots. out[r] = sum of init[r] -/+ c[r][j] u[j], j in order.
// kSolve: j < slot + r, subtracted, times beta, and the result becomes u[slot + r].
// Otherwise: j <= slot + r, added.
template <int kRows, bool kSolve>
HWY_NOINLINE void chain_tile(const F32x16* init, const float* HWY_RESTRICT c, int64_t c_stride,
                             int64_t slot, const float* beta, float* u, float* out) {
  F32x16 acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r] = init[r];
  for (int64_t j = 0; j < slot; ++j) {
    const F32x16 x = math::load16(u + j * 16);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const F32x16 w = math::set16(c[r * c_stride + j]);
      acc[r] = kSolve ? math::nfma(w, x, acc[r]) : math::fma(w, x, acc[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < r; ++i) {
      const F32x16 w = math::set16(c[r * c_stride + slot + i]);
      const F32x16 x = math::load16(u + (slot + i) * 16);
      acc[r] = kSolve ? math::nfma(w, x, acc[r]) : math::fma(w, x, acc[r]);
    }
    if constexpr (kSolve) {
      acc[r] = math::mul(math::set16(beta[r]), acc[r]);
      math::store16(acc[r], u + (slot + r) * 16);
    } else {
      const F32x16 w = math::set16(c[r * c_stride + slot + r]);
      acc[r] = math::fma(w, math::load16(u + (slot + r) * 16), acc[r]);
      math::store16(acc[r], out + r * 16);
    }
  }
}

// One token at slot `slot`, kPanels panels side by side, straight from and to the records: u, row
// stride u_stride, holds the panels next to each other. product: rows of the panels, product_stride
// apart: the k row's of a rule that corrects (kCorrects), then the q row's. read [slot + 1] and
// solve [slot]: coefficients of u in o and in u. The chains are those of chain_tile.
template <int kPanels, bool kCorrects, bool kSkips>
HWY_NOINLINE void token_tile(const float* HWY_RESTRICT product, int64_t product_stride, float decay,
                             const float* HWY_RESTRICT v, const float* HWY_RESTRICT solve,
                             const float* HWY_RESTRICT read, int64_t slot, float beta, float skip,
                             float* u, int64_t u_stride, float* HWY_RESTRICT out) {
  F32x16 value[kPanels], sum[kPanels];
  const F32x16 scale = math::set16(decay);
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const float* at = product + p * product_stride;
    value[p] = math::load16(v + p * 16);
    sum[p] = math::mul(scale, math::load16(kCorrects ? at + 16 : at));
    if constexpr (kSkips) sum[p] = math::fma(math::set16(skip), value[p], sum[p]);
    if constexpr (kCorrects) value[p] = math::nfma(scale, math::load16(at), value[p]);
  }
  for (int64_t j = 0; j < slot; ++j) {
    const F32x16 c = math::set16(kCorrects ? solve[j] : 0.0f), d = math::set16(read[j]);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const F32x16 x = math::load16(u + j * u_stride + p * 16);
      if constexpr (kCorrects) value[p] = math::nfma(c, x, value[p]);
      sum[p] = math::fma(d, x, sum[p]);
    }
  }
  const F32x16 own = math::set16(read[slot]), strength = math::set16(beta);
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    value[p] = math::mul(strength, value[p]);
    math::store16(value[p], u + slot * u_stride + p * 16);
    math::store16(math::fma(own, value[p], sum[p]), out + p * 16);
  }
}

// next[r][lane] = decay[r] state[r][lane] + sum_{j < count} w[j][r] u[j][lane]: kRows rows of a
// panel. kChannels: a decay per row; otherwise decay[0]. state nullptr: zeros. w: row stride
// w_stride.
template <int kRows, bool kChannels>
HWY_NOINLINE void fold_tile(const float* state, const float* decay, const float* HWY_RESTRICT w,
                            int64_t w_stride, const float* HWY_RESTRICT u, int64_t count,
                            float* next) {
  F32x16 acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
    acc[r] = state == nullptr
                 ? math::zero16()
                 : math::mul(math::set16(decay[kChannels ? r : 0]), math::load16(state + r * 16));
  for (int64_t j = 0; j < count; ++j) {
    const F32x16 x = math::load16(u + j * 16);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const math::VF y = math::hn::Set(math::DF(), w[j * w_stride + r]);
#pragma GCC unroll 16
      for (int i = 0; i < math::kParts; ++i) acc[r].v[i] = math::fma(y, x.v[i], acc[r].v[i]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) math::store16(acc[r], next + r * 16);
}

// dots[r][j] = rows[r] . keys[j] for kRows rows and kKeys keys of `width` (a multiple of 16)
// values: 16 partial sums, then the tree of math::sum.
template <int kRows, int kKeys>
HWY_NOINLINE void dot_tile(const float* const* rows, const float* const* keys, int64_t width,
                           float* const* dots) {
  F32x16 acc[kRows][kKeys];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kKeys; ++j) acc[r][j] = math::zero16();
  for (int64_t k = 0; k < width; k += 16) {
#pragma GCC unroll 16
    for (int i = 0; i < math::kParts; ++i) {
      math::VF x[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
        x[r] = math::hn::LoadU(math::DF(), rows[r] + k + i * math::kLanes);
#pragma GCC unroll 4
      for (int j = 0; j < kKeys; ++j) {
        const math::VF y = math::hn::LoadU(math::DF(), keys[j] + k + i * math::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) acc[r][j].v[i] = math::fma(x[r], y, acc[r][j].v[i]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kKeys; ++j) dots[r][j] = math::sum(acc[r][j]);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops::linear_attention
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
