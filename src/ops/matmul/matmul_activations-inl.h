// A block of activations to int8, compiled once per target: two registers of 16 floats. Its largest
// magnitude is found on the bits, where what is not finite is larger than any number.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/simd/simd.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_layout.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"
#if HWY_ARCH_X86
#include <immintrin.h>
#endif

#if defined(HEDDLE_OPS_MATMUL_ACTIVATIONS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_MATMUL_ACTIVATIONS_INL_H
#undef HEDDLE_OPS_MATMUL_ACTIVATIONS_INL_H
#else
#define HEDDLE_OPS_MATMUL_ACTIVATIONS_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

struct BlockSums {
  float scale;
  int32_t halves[2];  // sums of the first and second 16 codes
#if HWY_TARGET == HWY_AVX2
  int32_t pairs[2];  // int16 [2]: those of the codes k with k % 4 < 2 and of the others
#endif
};

// The largest magnitude of 32 values; infinity or NaN if one of them is not finite.
HWY_INLINE float largest_of(F32x16 x0, F32x16 x1) {
  const VI mask = hn::Set(DI(), 0x7fffffff);
  VI top = hn::Zero(DI());
  for (int i = 0; i < kParts; ++i) {
    top = hn::Max(top, hn::And(hn::BitCast(DI(), x0.v[i]), mask));
    top = hn::Max(top, hn::And(hn::BitCast(DI(), x1.v[i]), mask));
  }
  const int32_t bits = hn::GetLane(hn::MaxOfLanes(DI(), top));
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

constexpr float kOutlierSquares = kOutlierDeviations * kOutlierDeviations;

HWY_INLINE float sum_squares(F32x16 x0, F32x16 x1) { return sum(fma(x0, x0, mul(x1, x1))); }

// x with zeros instead of the values of one magnitude.
HWY_INLINE F32x16 without(F32x16 x, float magnitude) {
  return F32x16::build([&](int i) HWY_ATTR {
    return hn::IfThenZeroElse(hn::Eq(hn::Abs(x.v[i]), hn::Set(DF(), magnitude)), x.v[i]);
  });
}

// Whether some value of a block may stand out: it does if alone, or with a second one, it is
// kOutlierDeviations times the root mean square of the rest.
HWY_INLINE bool may_stand_out(F32x16 x0, F32x16 x1, float largest) {
  const float square = largest * largest;
  constexpr float kTwoAlike = 1.0f + 30.0f / kOutlierSquares;
  if (largest <= 1e-30f || square * kTwoAlike <= sum_squares(x0, x1) - square) return false;
  const F32x16 y0 = without(x0, largest);
  const F32x16 y1 = without(x1, largest);
  const float others = sum_squares(y0, y1);
  const float second = largest_of(y0, y1);
  const float rest = std::max(others - second * second, 0.0f) * 0.999f;
  return square * 31 > kOutlierSquares * others || second * second * 30 > kOutlierSquares * rest;
}

// Takes the values that stand out from x [32], zeroing them; returns how many. `largest` becomes
// that of what is left.
HWY_NOINLINE int take_outliers(float* x, float& largest, Outlier* out) {
  const auto take = [&](float magnitude) HWY_ATTR {
    int at = 0;
    while (std::abs(x[at]) != magnitude) ++at;
    const Outlier taken{at, x[at]};
    x[at] = 0;
    return taken;
  };
  static_assert(kBlockOutliers == 2);
  const Outlier first = take(largest);
  const float second_largest = largest_of(load16(x), load16(x + 16));
  const float others = sum_squares(load16(x), load16(x + 16));
  const Outlier second = take(second_largest);
  const float rest = sum_squares(load16(x), load16(x + 16));
  if (second_largest > 1e-30f && second_largest * second_largest * 30 > kOutlierSquares * rest) {
    out[0] = first.k < second.k ? first : second;
    out[1] = first.k < second.k ? second : first;
    largest = largest_of(load16(x), load16(x + 16));
    return 2;
  }
  x[second.k] = second.value;
  if (largest * largest * 31 > kOutlierSquares * others) {
    out[0] = first;
    largest = second_largest;
    return 1;
  }
  x[first.k] = first.value;
  return 0;
}

HWY_INLINE void sum_codes(const int8_t* codes, BlockSums& sums) {
#if HWY_TARGET == HWY_SCALAR
  for (int h = 0; h < 2; ++h)
    for (int i = sums.halves[h] = 0; i < 16; ++i) sums.halves[h] += codes[16 * h + i];
#elif HWY_TARGET == HWY_AVX2
  // Pairs of neighbours, then the four even and the four odd ones of each half.
  __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1),
                                       _mm256_load_si256(reinterpret_cast<const __m256i*>(codes)));
  pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
  pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
  const __m256i both = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  sums.pairs[0] = _mm256_cvtsi256_si32(pairs);
  sums.pairs[1] = _mm256_extract_epi32(pairs, 4);
  sums.halves[0] = _mm256_cvtsi256_si32(both);
  sums.halves[1] = _mm256_extract_epi32(both, 4);
#else
  const hn::FixedTag<uint8_t, 16> d8;
  const hn::FixedTag<uint64_t, 2> d64;
  for (int h = 0; h < 2; ++h) {
    const auto raw = hn::LoadU(d8, reinterpret_cast<const uint8_t*>(codes) + 16 * h);
    const auto eights = hn::SumsOf8(hn::Xor(raw, hn::Set(d8, 128)));
    sums.halves[h] = static_cast<int32_t>(hn::GetLane(hn::SumOfLanes(d64, eights))) - 16 * 128;
  }
#endif
}

// 32 values to codes (nearest even; 32-byte aligned), scale = max |x| / 127 of those that are no
// outliers.
HWY_INLINE BlockSums quantize_block(const float* source, int8_t* codes, Outlier* outliers,
                                    int& outlier_count) {
  F32x16 x0 = load16(source);
  F32x16 x1 = load16(source + 16);
  float largest = largest_of(x0, x1);
  outlier_count = 0;
  BlockSums sums{};
  if (!std::isfinite(largest)) {  // integers would hide it
    std::memset(codes, 0, 32);
    sums.scale = NAN;
    return sums;
  }
  if (may_stand_out(x0, x1, largest)) {
    HWY_ALIGN float x[32];
    store16(x0, x);
    store16(x1, x + 16);
    outlier_count = take_outliers(x, largest, outliers);
    x0 = load16(x);
    x1 = load16(x + 16);
  }
  // Below that the inverse overflows; such a block is as good as zero.
  const F32x16 inverse = set16(largest > 1e-30f ? 127.0f / largest : 0.0f);
  const auto put = [&](F32x16 x, int8_t* to) HWY_ATTR {
    const F32x16 scaled = mul(x, inverse);
    for (int i = 0; i < kParts; ++i) {
      const hn::Rebind<int8_t, DI> d8;
      hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(scaled.v[i])), d8, to + i * kLanes);
    }
  };
  put(x0, codes);
  put(x1, codes + 16);
  sums.scale = largest / 127.0f;
  sum_codes(codes, sums);
  return sums;
}

// Numbers of one block of one token to the planes in use, at `index`.
HWY_INLINE void put_planes(const Activations& out, int64_t index, const BlockSums& sums) {
  const int32_t first = sums.halves[0];
  const int32_t second = sums.halves[1];
  const int32_t sum = first + second;
  const auto put = [&](Activations::Plane plane, auto... values) HWY_ATTR {
    if ((out.used >> plane & 1) == 0) return;
    const std::common_type_t<decltype(values)...> all[] = {values...};
    static_assert(sizeof all == 4);
    std::memcpy(out.planes + plane * out.plane_size() + index, all, 4);
  };
  put(Activations::kScale, sums.scale);
  put(Activations::kScaledSum, sums.scale * static_cast<float>(sum));
#if HWY_TARGET == HWY_AVX2
  const auto put_pairs = [&](Activations::Plane plane, int factor, int32_t word) HWY_ATTR {
    int16_t pairs[2];
    std::memcpy(pairs, &word, 4);
    put(plane, static_cast<int16_t>(factor * pairs[0]), static_cast<int16_t>(factor * pairs[1]));
  };
  // Halves of a word add apart: the sums of 16 codes are below 2^11.
  const __m128i both =
      _mm_add_epi16(_mm_cvtsi32_si128(sums.pairs[0]), _mm_cvtsi32_si128(sums.pairs[1]));
  put_pairs(Activations::kMinus8Pairs, -8, _mm_cvtsi128_si32(both));
  put_pairs(Activations::kMinus16Pairs, -16, _mm_cvtsi128_si32(both));
  put_pairs(Activations::kMinus32HalfPairs, -32, sums.pairs[0]);
  put_pairs(Activations::kMinus32RestPairs, -32, sums.pairs[1]);
#else
  put(Activations::kMinus8, -8 * sum);
  put(Activations::kMinus16, -16 * sum);
  put(Activations::kMinus128, -128 * sum);
  put(Activations::kMinus32Half, -32 * first);
  put(Activations::kMinus32Rest, -32 * second);
#endif
}

// Codes of a block, [kWidth][32], to groups of four bytes with the tokens side by side.
template <int kWidth>
HWY_INLINE void interleave(const int8_t (*codes)[32], int8_t* to) {
  if constexpr (kWidth == 1) {
    std::memcpy(to, codes[0], 32);
    return;
  }
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kWidth == 4) {
    const hn::FixedTag<uint32_t, 4> d;
    const hn::Repartition<uint64_t, decltype(d)> d64;
    for (int half = 0; half < 2; ++half, to += 64) {
      const auto row = [&](int t) HWY_ATTR {
        return hn::LoadU(d, reinterpret_cast<const uint32_t*>(codes[t] + 16 * half));
      };
      const auto put = [&](auto low, auto high, int64_t at) HWY_ATTR {
        auto* out = reinterpret_cast<uint32_t*>(to + at);
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, low, high)), d, out);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, low, high)), d, out + 4);
      };
      const auto pairs = [&](auto v) HWY_ATTR { return hn::BitCast(d64, v); };
      put(pairs(hn::InterleaveLower(d, row(0), row(1))),
          pairs(hn::InterleaveLower(d, row(2), row(3))), 0);
      put(pairs(hn::InterleaveUpper(d, row(0), row(1))),
          pairs(hn::InterleaveUpper(d, row(2), row(3))), 32);
    }
    return;
  }
#endif
  for (int64_t g = 0; g < 8; ++g)
    for (int64_t t = 0; t < kWidth; ++t)
      std::memcpy(to + 4 * (g * kWidth + t), codes[t] + 4 * g, 4);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
