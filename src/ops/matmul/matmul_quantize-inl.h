// Activations to int8, compiled once per target. One pass over x; under AVX-512 four blocks at a
// time, so that the folds over a block's lanes, its division and the numbers beside its codes are
// shared. Floor: 4 bytes read and about 1.5 written a value.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "backend/simd/simd.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_layout.h"
// After simd.h: compiled per target.
#include "ops/matmul/matmul_activations-inl.h"
#include "ops/matmul/matmul_dot-inl.h"

#if defined(HEDDLE_OPS_MATMUL_QUANTIZE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_MATMUL_QUANTIZE_INL_H
#undef HEDDLE_OPS_MATMUL_QUANTIZE_INL_H
#else
#define HEDDLE_OPS_MATMUL_QUANTIZE_INL_H
#endif

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {

// Counts the outliers found in block b among those of its stretch.
HWY_INLINE void join_outliers(Outlier* outliers, int found, int64_t b, int32_t& count) {
  for (int i = 0; i < found; ++i)
    outliers[i].k += static_cast<int32_t>(32 * (b % Activations::kStretch));
  count += found;
}

// Block b of one group.
template <int kWidth>
HWY_INLINE void quantize_group_block(const MatmulArgs& args, const Activations& out, int64_t group,
                                     int64_t b) {
  const int64_t stretch = b / Activations::kStretch;
  const int64_t outliers_at = out.outliers_at(stretch, group * kWidth);
  int32_t* counts = out.outlier_counts + outliers_at;
  alignas(64) int8_t codes[kWidth][32];
  const int64_t index = out.index(group, b) * kWidth;
  for (int64_t t = 0; t < kWidth; ++t) {
    const int64_t token = group * kWidth + t;
    BlockSums sums{};
    if (token < args.tokens) {
      Outlier* outliers =
          out.outliers + (outliers_at + t) * Activations::kStretchOutliers + counts[t];
      int found = 0;
      sums = quantize_block(args.x + token * args.x_stride + 32 * b, codes[t], outliers, found);
      join_outliers(outliers, found, b, counts[t]);
    } else {
      std::memset(codes[t], 0, sizeof codes[t]);
    }
    put_planes(out, index + t, sums);
  }
  interleave<kWidth>(codes, out.codes + 32 * index);
}

#if HWY_TARGET == HWY_AVX3_DL

// Four blocks side by side. What is one number a block lies in the quarters of a vector, four times
// that of block i in quarter i. Every number is that of quantize_block(): sums add in the order of
// sum().
struct FourBlocks {
  __m512 x[4][2];
};

// Lanes i and i + 8 of four vectors, then i and i + 4, i + 2, i + 1.
template <class Op>
HWY_INLINE __m512 fold_four(const __m512 (&v)[4], Op op) {
  const __m512 low =
      op(_mm512_shuffle_f32x4(v[0], v[1], 0x44), _mm512_shuffle_f32x4(v[0], v[1], 0xee));
  const __m512 high =
      op(_mm512_shuffle_f32x4(v[2], v[3], 0x44), _mm512_shuffle_f32x4(v[2], v[3], 0xee));
  __m512 all = op(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
  all = op(all, _mm512_permute_ps(all, 0x4e));
  return op(all, _mm512_permute_ps(all, 0xb1));
}
// Block kBlock's number in every lane.
template <int kBlock>
HWY_INLINE __m512 spread(__m512 quarters) {
  return _mm512_shuffle_f32x4(quarters, quarters, kBlock * 0x55);
}
// Four numbers, one a block.
HWY_INLINE __m128 narrow(__m512 quarters) {
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(first, quarters));
}

HWY_INLINE __m512 sum_squares(const FourBlocks& f) {
  __m512 squares[4];
  unroll<4>([&](auto t) HEDDLE_LAMBDA {
    squares[t] = _mm512_fmadd_ps(f.x[t][0], f.x[t][0], _mm512_mul_ps(f.x[t][1], f.x[t][1]));
  });
  return fold_four(squares, [](__m512 a, __m512 b) HEDDLE_LAMBDA { return _mm512_add_ps(a, b); });
}
HWY_INLINE __m512 largest_of(const FourBlocks& f) {
  const auto larger = [](__m512 a, __m512 b) HEDDLE_LAMBDA {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  };
  __m512 top[4];
  unroll<4>([&](auto t) HEDDLE_LAMBDA {
    top[t] = larger(_mm512_abs_ps(f.x[t][0]), _mm512_abs_ps(f.x[t][1]));
  });
  return fold_four(top, larger);
}

// may_stand_out() of each block: its quarter's bits.
HWY_INLINE __mmask16 may_stand_out(const FourBlocks& f, __m512 largest) {
  constexpr float kTwoAlike = 1.0f + 30.0f / kOutlierSquares;
  const __m512 square = _mm512_mul_ps(largest, largest);
  const __mmask16 maybe =
      _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(largest, _mm512_set1_ps(1e-30f), _CMP_GT_OQ),
                              _mm512_mul_ps(square, _mm512_set1_ps(kTwoAlike)),
                              _mm512_sub_ps(sum_squares(f), square), _CMP_NLE_UQ);
  if (maybe == 0) return 0;
  FourBlocks y;
  unroll<4>([&](auto t) HEDDLE_LAMBDA {
    const __m512 magnitude = spread<t>(largest);
    unroll<2>([&](auto h) HEDDLE_LAMBDA {
      const __m512 x = f.x[t][h];
      y.x[t][h] =
          _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(x), magnitude, _CMP_NEQ_UQ), x);
    });
  });
  const __m512 others = sum_squares(y);
  const __m512 second = largest_of(y);
  const __m512 second_square = _mm512_mul_ps(second, second);
  const __m512 rest =
      _mm512_mul_ps(_mm512_max_ps(_mm512_setzero_ps(), _mm512_sub_ps(others, second_square)),
                    _mm512_set1_ps(0.999f));
  const __m512 least = _mm512_set1_ps(kOutlierSquares);
  const __mmask16 one = _mm512_cmp_ps_mask(_mm512_mul_ps(square, _mm512_set1_ps(31)),
                                           _mm512_mul_ps(least, others), _CMP_GT_OQ);
  const __mmask16 two = _mm512_cmp_ps_mask(_mm512_mul_ps(second_square, _mm512_set1_ps(30)),
                                           _mm512_mul_ps(least, rest), _CMP_GT_OQ);
  return maybe & (one | two);
}

// Sums of 16 codes of each block; codes [4][4 blocks][4].
HWY_INLINE __m128i sum_codes(__m512i codes) {
  const __m512i fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
  const __m256i two =
      _mm256_add_epi32(_mm512_castsi512_si256(fours), _mm512_extracti64x4_epi64(fours, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
}

// put_planes() of four blocks.
HWY_INLINE void put_four_planes(const Activations& out, int64_t index, __m128 scale, __m128i first,
                                __m128i second) {
  const auto put = [&](Activations::Plane plane, auto values) HEDDLE_LAMBDA {
    if ((out.used >> plane & 1) != 0)
      std::memcpy(out.planes + plane * out.plane_size() + index, &values, sizeof values);
  };
  const auto minus = [](__m128i v, int bits) HEDDLE_LAMBDA {
    return _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(v, bits));
  };
  const __m128i sum = _mm_add_epi32(first, second);
  put(Activations::kScale, scale);
  put(Activations::kScaledSum, _mm_mul_ps(scale, _mm_cvtepi32_ps(sum)));
  put(Activations::kMinus8, minus(sum, 3));
  put(Activations::kMinus16, minus(sum, 4));
  put(Activations::kMinus128, minus(sum, 7));
  put(Activations::kMinus32Half, minus(first, 5));
  put(Activations::kMinus32Rest, minus(second, 5));
}

// Groups of four tokens: block b. Groups of one: blocks b ... b + 3 (of one stretch). False: some
// value is not finite, nothing is done.
template <int kWidth>
HWY_INLINE bool quantize_four_blocks(const MatmulArgs& args, const Activations& out, int64_t group,
                                     int64_t b) {
  static_assert(kWidth == 1 || kWidth == 4);
  const auto token = [&](int i) HEDDLE_LAMBDA { return kWidth == 4 ? group * 4 + i : group; };
  const auto block = [&](int i) HEDDLE_LAMBDA { return kWidth == 4 ? b : b + i; };
  FourBlocks f;
  unroll<4>([&](auto i) HEDDLE_LAMBDA {
    f.x[i][0] = f.x[i][1] = _mm512_setzero_ps();
    if (token(i) >= args.tokens) return;
    const float* x = args.x + token(i) * args.x_stride + 32 * block(i);
    f.x[i][0] = _mm512_loadu_ps(x);
    f.x[i][1] = _mm512_loadu_ps(x + 16);
  });
  __m512 largest = largest_of(f);
  if (_mm512_cmp_epi32_mask(_mm512_castps_si512(largest), _mm512_set1_epi32(0x7f800000),
                            _MM_CMPINT_NLT) != 0)
    return false;
  const __mmask16 outlying = may_stand_out(f, largest);
  if (outlying != 0) {
    unroll<4>([&](auto i) HEDDLE_LAMBDA {
      if ((outlying >> (4 * i) & 1) == 0) return;
      const int64_t at = out.outliers_at(b / Activations::kStretch, token(i));
      int32_t& count = out.outlier_counts[at];
      Outlier* outliers = out.outliers + at * Activations::kStretchOutliers + count;
      alignas(64) float x[32];
      _mm512_store_ps(x, f.x[i][0]);
      _mm512_store_ps(x + 16, f.x[i][1]);
      float left = _mm512_cvtss_f32(spread<i>(largest));
      join_outliers(outliers, take_outliers(x, left, outliers), block(i), count);
      f.x[i][0] = _mm512_load_ps(x);
      f.x[i][1] = _mm512_load_ps(x + 16);
      largest =
          _mm512_mask_mov_ps(largest, static_cast<__mmask16>(0xf << (4 * i)), _mm512_set1_ps(left));
    });
  }
  const __m512 inverse =
      _mm512_maskz_div_ps(_mm512_cmp_ps_mask(largest, _mm512_set1_ps(1e-30f), _CMP_GT_OQ),
                          _mm512_set1_ps(127.0f), largest);
  __m512i codes[4][2];
  unroll<4>([&](auto i) HEDDLE_LAMBDA {
    const __m512 factor = spread<i>(inverse);
    unroll<2>([&](auto h) HEDDLE_LAMBDA {
      codes[i][h] = _mm512_cvtps_epi32(_mm512_mul_ps(f.x[i][h], factor));
    });
  });
  // Packing works within quarters: of four vectors of 16 codes, 4 codes of each.
  __m512i packed[2];
  unroll<2>([&](auto h) HEDDLE_LAMBDA {
    packed[h] = _mm512_packs_epi16(_mm512_packs_epi32(codes[0][h], codes[1][h]),
                                   _mm512_packs_epi32(codes[2][h], codes[3][h]));
  });
  const int64_t index = out.index(group, b) * kWidth;
  int8_t* to = out.codes + 32 * index;
  if constexpr (kWidth == 4) {
    _mm512_storeu_si512(to, packed[0]);
    _mm512_storeu_si512(to + 64, packed[1]);
  } else {
    const __m512i first =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i third = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi32(packed[0], first, packed[1]));
    _mm512_storeu_si512(to + 64, _mm512_permutex2var_epi32(packed[0], third, packed[1]));
  }
  put_four_planes(out, index, _mm_div_ps(narrow(largest), _mm_set1_ps(127.0f)),
                  sum_codes(packed[0]), sum_codes(packed[1]));
  return true;
}

#endif

// Token groups [begin, end).
template <int kWidth>
HWY_NOINLINE void quantize_width(const MatmulArgs& args, const Activations& out, int64_t begin,
                                 int64_t end) {
  for (int64_t group = begin; group < end; ++group) {
    for (int64_t b = 0; b < out.blocks;) {
      if (b % Activations::kStretch == 0) {
        int32_t* counts =
            out.outlier_counts + out.outliers_at(b / Activations::kStretch, group * kWidth);
        std::fill(counts, counts + kWidth, 0);
      }
#if HWY_TARGET == HWY_AVX3_DL
      if constexpr (kWidth != 2) {
        constexpr int64_t kBlocks = 4 / kWidth;
        if (b % kBlocks == 0 && b + kBlocks <= out.blocks &&
            quantize_four_blocks<kWidth>(args, out, group, b)) {
          b += kBlocks;
          continue;
        }
      }
#endif
      quantize_group_block<kWidth>(args, out, group, b);
      ++b;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
