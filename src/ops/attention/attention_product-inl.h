// Register-blocked products and the exponential of attention_kernel-inl.h, compiled once per
// target.
#include <hwy/cache_control.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"
#include "base/dtype.h"
#include "ops/attention/packed_page-inl.h"
#include "state/state_part.h"

#if defined(HEDDLE_OPS_ATTENTION_PRODUCT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_ATTENTION_PRODUCT_INL_H
#undef HEDDLE_OPS_ATTENTION_PRODUCT_INL_H
#else
#define HEDDLE_OPS_ATTENTION_PRODUCT_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

constexpr int64_t kPage = state::kPageTokens;
constexpr int kMaxBlock = 6;  // rows of a register block

// Vectors of columns beside M rows: M x that many independent chains of fused multiply-adds hide
// their latency without spilling (16 registers under AVX2, 32 under AVX-512).
constexpr int wide(int rows) {
  if (kLanes == 16) return 4;
  return rows == 1 ? 8 : rows <= 3 ? 4 : 2;
}
constexpr int64_t kPanel = wide(kMaxBlock) * kLanes;  // columns of a widened panel

struct Float32 {
  using T = float;
  static constexpr bool kFetchAhead = false;
  static HWY_INLINE VF load(const float* p) { return hn::LoadU(DF(), p); }
  static HWY_INLINE float widen(float x) { return x; }
};
struct Bfloat16 {
  using T = uint16_t;
  static constexpr bool kFetchAhead = true;
  static HWY_INLINE VF load(const uint16_t* p) {
    const hn::Rebind<uint16_t, DI> d16;
    const auto bits = hn::PromoteTo(hn::RebindToUnsigned<DI>(), hn::LoadU(d16, p));
    return hn::BitCast(DF(), hn::ShiftLeft<16>(bits));
  }
  static HWY_INLINE float widen(uint16_t x) { return bf16_to_f32(x); }
};

// Logits are kept in units of ln 2 (the scale of the queries holds log2 e), so that probabilities
// are powers of two: no reduction by ln 2, and half the instructions of exp().
constexpr float kLog2e = 1.44269504f;
constexpr float kExp2Coefficients[] = {1.0f,           0.693147182f,  0.240226507f,   0.0555032715f,
                                       0.00961805694f, 0.0013400428f, 0.000154614449f};

// 2^x for x <= 100; 2^-126 where that is less. The polynomial is the Chebyshev interpolant of 2^r
// at seven points of [-1/2, 1/2]: its error, 2e-8, is below half a unit in the last place.
static HWY_INLINE VF exp2(VF x) {
  const DF d;
  const DI di;
  x = hn::Max(x, hn::Set(d, -126.0f));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const VF magic = hn::Set(d, 12582912.0f);
  const VF shifted = hn::Add(x, magic);
  const VF r = hn::Sub(x, hn::Sub(shifted, magic));
  VF p = hn::Set(d, kExp2Coefficients[6]);
#pragma GCC unroll 6
  for (int i = 5; i >= 0; --i) p = fma(p, r, hn::Set(d, kExp2Coefficients[i]));
  const VI exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), exponent));
}
static HWY_INLINE F32x16 exp2(F32x16 x) {
  return F32x16::build([&](int i) HWY_ATTR { return exp2(x.v[i]); });
}
static HWY_INLINE float exp2_one(float x) { return hn::GetLane(exp2(hn::Set(DF(), x))); }

// What a product fetches on its way, as many bytes as it reads, so that memory and arithmetic
// overlap: from `at` on (nullptr: nothing), after `bytes` of it from `then` on (nullptr: no
// change).
struct Fetch {
  const std::byte* at = nullptr;
  const std::byte* then = nullptr;
  int64_t bytes = 0;
};

// scores: c[r][...] = sum_d a[d * M + r] b[d][...]
// values: c[r][...] += sum_j a[r * 64 + j] b[j][...]
struct Product {
  const float* a;
  const void* b;
  int64_t b_stride;
  int64_t count;  // of d or j
  float* c;
  int64_t c_stride;
  Fetch fetch;
};

template <int M, int N, class Source, bool kScores>
HWY_NOINLINE void product(const Product& p) {
  const DF d;
  const float* HWY_RESTRICT a = p.a;
  const auto* HWY_RESTRICT b = static_cast<const typename Source::T*>(p.b);
  const int64_t stride = p.b_stride;
  float* const out = p.c;
  const int64_t out_stride = p.c_stride;
  constexpr size_t kBytes = N * kLanes * sizeof(typename Source::T);  // of a row of b
  [[maybe_unused]] const std::byte* fetch = p.fetch.at;
  [[maybe_unused]] const int64_t then =
      p.fetch.then == nullptr ? 0 : p.count - p.fetch.bytes / static_cast<int64_t>(kBytes);
  VF c[M][N];
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
      c[r][n] = kScores ? hn::Zero(d) : hn::LoadU(d, out + r * out_stride + n * kLanes);
  }
  for (int64_t k = p.count; k > 0; --k) {
    // The shorter side is held in registers while the longer one passes: M N + min(M, N) + 1
    // registers, at most 16 under AVX2.
    if constexpr (M <= N) {
      VF x[M];
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) x[r] = hn::Set(d, kScores ? a[r] : a[r * kPage]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const VF column = Source::load(b + n * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) c[r][n] = fma(x[r], column, c[r][n]);
      }
    } else {
      VF column[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) column[n] = Source::load(b + n * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) {
        const VF x = hn::Set(d, kScores ? a[r] : a[r * kPage]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) c[r][n] = fma(x, column[n], c[r][n]);
      }
    }
    if constexpr (Source::kFetchAhead) {
      if (fetch != nullptr) {
        if (k == then) fetch = p.fetch.then;
        if (kBytes >= 64 || reinterpret_cast<uintptr_t>(fetch) % 64 == 0)
          for (size_t n = 0; n < kBytes; n += 64) hwy::Prefetch(fetch + n);
        fetch += kBytes;
      }
    }
    a += kScores ? M : 1;
    b += stride;
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) hn::StoreU(c[r][n], d, out + r * out_stride + n * kLanes);
  }
}

// call(M) for a block of M rows, a constant.
template <class Call>
static HWY_INLINE void with_rows(int64_t rows, Call&& call) {
  switch (rows) {
    case 1:
      return call(std::integral_constant<int, 1>());
    case 2:
      return call(std::integral_constant<int, 2>());
    case 3:
      return call(std::integral_constant<int, 3>());
    case 4:
      return call(std::integral_constant<int, 4>());
    case 5:
      return call(std::integral_constant<int, 5>());
    default:
      return call(std::integral_constant<int, kMaxBlock>());
  }
}

template <int N, class Source, bool kScores>
static HWY_INLINE void product_rows(int64_t rows, const Product& p) {
  // A block of more rows never has so many columns: see wide().
  constexpr int kMost = N <= wide(6) ? 6 : N <= wide(3) ? 3 : 1;
  with_rows(rows,
            [&](auto m) HWY_ATTR { product<std::min<int>(m, kMost), N, Source, kScores>(p); });
}

// `rows` rows, `vectors` registers of columns: 1 or wide() of the block that the rows belong to.
template <class Source, bool kScores>
static void multiply(int64_t rows, int vectors, const Product& p) {
  if (vectors == 1) return product_rows<1, Source, kScores>(rows, p);
  if (vectors == wide(6)) return product_rows<wide(6), Source, kScores>(rows, p);
  if (vectors == wide(3)) return product_rows<wide(3), Source, kScores>(rows, p);
  return product_rows<wide(1), Source, kScores>(rows, p);
}

#if HWY_TARGET == HWY_AVX3_DL

// The same, 64 columns of whole units that lie packed one behind the other; `count` strips.
template <int M, bool kScores>
HWY_NOINLINE void product_packed(const Product& p) {
  const DF d;
  const float* HWY_RESTRICT a = p.a;
  const auto* HWY_RESTRICT unit = static_cast<const uint8_t*>(p.b);
  float* const out = p.c;
  const int64_t out_stride = p.c_stride;
  const std::byte* fetch = p.fetch.at;
  int64_t left = p.fetch.then == nullptr ? std::numeric_limits<int64_t>::max() : p.fetch.bytes;
  const auto fetch_lines = [&](int64_t lines) HWY_ATTR {
    if (fetch == nullptr) return;
    if (left <= 0) {
      fetch = p.fetch.then;
      left = std::numeric_limits<int64_t>::max();
    }
    for (int64_t n = 0; n < lines; ++n) hwy::Prefetch(fetch + n * 64);
    fetch += lines * 64;
    left -= lines * 64;
  };
  const PackedStrips strips;
  VF c[M][4];
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n)
      c[r][n] = kScores ? hn::Zero(d) : hn::LoadU(d, out + r * out_stride + n * kLanes);
  }
  for (int64_t k = 0; k < p.count; k += kUnitStrips, unit += kPackedUnitBytes) {
    fetch_lines(2);
    const uint8_t* pair = unit + 2 * kUnitStrips;
    for (int64_t i = 0; i < kUnitStrips / 2; ++i, pair += kPackedPairBytes) {
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        VF column[4];
        strips.widen(unit, pair, i, odd, column);
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) {
          const VF x = hn::Set(d, kScores ? a[r] : a[r * kPage]);
#pragma GCC unroll 4
          for (int n = 0; n < 4; ++n) c[r][n] = fma(x, column[n], c[r][n]);
        }
        a += kScores ? M : 1;
      }
      fetch_lines(3);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) hn::StoreU(c[r][n], d, out + r * out_stride + n * kLanes);
  }
}

template <bool kScores>
static void multiply_packed(int64_t rows, const Product& p) {
  with_rows(rows, [&](auto m) HWY_ATTR { product_packed<m, kScores>(p); });
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
