// Integer dot products of one 32-block of a tile (16 rows, layout in matmul_layout.h) with the
// codes of up to a few tokens. The integers are exact, so every target returns the same floats.
// Intrinsics, as in matmul_panel-inl.h and matmul_quantize-inl.h: Highway 1.0.3 offers neither
// vpmaddubsw nor vpdpbusd.
//
// dots[t] = float(sum_k (code[r][k] - zero) a[t][k]), r = lane; |sum| < 2^24, so exact.
#include <cstdint>
#include <cstring>
#include <utility>

#include "backend/simd/simd.h"
#include "ops/matmul/matmul_layout.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"
#if HWY_ARCH_X86
#include <immintrin.h>
#endif

#if defined(HEDDLE_OPS_MATMUL_DOT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_MATMUL_DOT_INL_H
#undef HEDDLE_OPS_MATMUL_DOT_INL_H
#else
#define HEDDLE_OPS_MATMUL_DOT_INL_H
#endif

HWY_BEFORE_NAMESPACE();
// Highway's attributes for AVX3_DL lack the instruction set that gave the target its name.
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

// Activations of NT tokens at one 32-block: groups of W neighbours (one group, or two).
template <int NT>
struct ActivationView {
  static constexpr int kWidth = NT > 4 ? 4 : NT;
  const int8_t* codes;    // group i at codes + i * code_stride
  const int32_t* planes;  // group i at planes + i * plane_stride
  int64_t code_stride;
  int64_t plane_stride;
  int64_t plane_size;

  HWY_INLINE const int8_t* four(int t, int group) const {
    return codes + (t / kWidth) * code_stride + 4 * (group * kWidth + t % kWidth);
  }
  HWY_INLINE const int32_t* plane(Activations::Plane p, int t) const {
    return planes + p * plane_size + (t / kWidth) * plane_stride + t % kWidth;
  }
  HWY_INLINE float number(Activations::Plane p, int t) const {
    float value;
    std::memcpy(&value, plane(p, t), 4);
    return value;
  }
  HWY_INLINE void advance() {
    codes += 32 * kWidth;
    planes += kWidth;
  }
};
// Tokens token ... token + NT - 1 from block `block` to the end of its stretch.
template <int NT>
HWY_INLINE ActivationView<NT> activation_view(const Activations& all, int64_t token,
                                              int64_t block) {
  constexpr int64_t kWidth = ActivationView<NT>::kWidth;
  const int64_t index = all.index(token / kWidth, block);
  const int64_t stride = all.stretch_blocks(block) * kWidth;
  return {all.codes + index * 32 * kWidth, all.planes + index * kWidth, stride * 32, stride,
          all.plane_size()};
}

constexpr Activations::Plane minus(int zero) {
  return zero == 8    ? Activations::kMinus8
         : zero == 16 ? Activations::kMinus16
                      : Activations::kMinus128;
}

#if HWY_TARGET == HWY_AVX3_DL

HWY_INLINE __m512i broadcast(const void* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

// Group g of a block: 64 unsigned codes.
template <int kBits>
HWY_INLINE __m512i load_codes(const uint8_t* p, int g) {
  if constexpr (kBits == 8) {
    return _mm512_loadu_si512(p + 64 * g);
  } else {
    const __m512i fifteen = _mm512_set1_epi8(15);
    const __m512i raw = _mm512_loadu_si512(p + 64 * (g & 3));
    const __m512i low = _mm512_and_si512(g < 4 ? raw : _mm512_srli_epi16(raw, 4), fifteen);
    if constexpr (kBits == 4) {
      return low;
    } else {
      const int shift = kBits == 5 ? 4 - g : 4 - 2 * (g & 3);  // to bit 4
      const __m512i plane = _mm512_loadu_si512(p + 256 + (kBits == 6 ? 64 * (g >> 2) : 0));
      const __m512i moved = shift >= 0 ? _mm512_slli_epi16(plane, static_cast<unsigned>(shift))
                                       : _mm512_srli_epi16(plane, static_cast<unsigned>(-shift));
      // low | (moved & mask) in one instruction.
      return _mm512_ternarylogic_epi32(low, moved, _mm512_set1_epi8(kBits == 5 ? 0x10 : 0x30),
                                       0xf8);
    }
  }
}

// Group by group, so that neighbouring instructions belong to different chains; one token has two.
template <int kBits, int kZero, int NT>
HWY_INLINE void block_dots(const uint8_t* p, const ActivationView<NT>& a, F32x16* dots) {
  constexpr int kOffset = kBits == 8 ? 128 : kZero;  // signed bytes become unsigned by + 128
  constexpr int kChains = NT == 1 ? 2 : NT;
  __m512i sums[kChains];
  unroll<kChains>([&](auto t) HEDDLE_LAMBDA {
    sums[t] = kOffset && t < NT ? broadcast(a.plane(minus(kOffset), t)) : _mm512_setzero_si512();
  });
  unroll<8>([&](auto step) HEDDLE_LAMBDA {
    constexpr int g = step / 2 + step % 2 * 4;  // both nibbles of a byte vector
    __m512i w = load_codes<kBits>(p, g);
    if constexpr (kBits == 8) w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      auto& sum = sums[NT == 1 ? step % 2 : t];
      sum = _mm512_dpbusd_epi32(sum, w, broadcast(a.four(t, g)));
    });
  });
  if constexpr (NT == 1) sums[0] = _mm512_add_epi32(sums[0], sums[1]);
  unroll<NT>([&](auto t) HEDDLE_LAMBDA { dots[t].v[0].raw = _mm512_cvtepi32_ps(sums[t]); });
}

// The two scales of each row's block, from int8 [16][2].
struct HalfScales {
  __m512 first;
  __m512 second;
};
HWY_INLINE HalfScales half_scales(const std::byte* scales) {
  const __m512i pairs =
      _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16)),
          _mm512_cvtepi32_ps(_mm512_srai_epi32(pairs, 16))};
}

// scales: int8 [16][2], one per row and 16-block. dots = sum of scale (code - 32) a.
template <int NT>
HWY_INLINE void block_dots_q6(const uint8_t* p, const std::byte* scales,
                              const ActivationView<NT>& a, F32x16* dots) {
  const HalfScales halves = half_scales(scales);
  unroll<2>([&](auto half) HEDDLE_LAMBDA {
    __m512i sums[NT];
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      sums[t] = broadcast(a.plane(half ? Activations::kMinus32Rest : Activations::kMinus32Half, t));
    });
    unroll<4>([&](auto j) HEDDLE_LAMBDA {
      const __m512i w = load_codes<6>(p, 4 * half + j);
      unroll<NT>([&](auto t) HEDDLE_LAMBDA {
        sums[t] = _mm512_dpbusd_epi32(sums[t], w, broadcast(a.four(t, 4 * half + j)));
      });
    });
    // Products and their sum are integers below 2^24: no rounding.
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      const __m512 sum = _mm512_cvtepi32_ps(sums[t]);
      dots[t].v[0].raw = half ? _mm512_fmadd_ps(sum, halves.second, dots[t].v[0].raw)
                              : _mm512_mul_ps(sum, halves.first);
    });
  });
}

#elif HWY_TARGET == HWY_AVX2

HWY_INLINE __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

HWY_INLINE __m256i broadcast(const void* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

// Stops the compiler from regrouping a chain of additions, which costs it registers.
HWY_INLINE __m256i pin(__m256i v) {
  asm("" : "+x"(v));
  return v;
}

// Rows 8 half .. 8 half + 7 of group g: 32 unsigned codes (signed for 8 bits).
template <int kBits>
HWY_INLINE __m256i load_codes(const uint8_t* p, int g, int half) {
  p += 32 * half;
  if constexpr (kBits == 8) {
    return load_bytes(p + 64 * g);
  } else {
    const __m256i raw = load_bytes(p + 64 * (g & 3));
    const __m256i low =
        _mm256_and_si256(g < 4 ? raw : _mm256_srli_epi16(raw, 4), _mm256_set1_epi8(15));
    if constexpr (kBits == 4) {
      return low;
    } else {
      const int shift = kBits == 5 ? 4 - g : 4 - 2 * (g & 3);  // to bit 4
      const __m256i plane = load_bytes(p + 256 + (kBits == 6 ? 64 * (g >> 2) : 0));
      const __m256i moved =
          shift >= 0 ? _mm256_slli_epi16(plane, shift) : _mm256_srli_epi16(plane, -shift);
      return _mm256_or_si256(low,
                             _mm256_and_si256(moved, _mm256_set1_epi8(kBits == 5 ? 0x10 : 0x30)));
    }
  }
}

// How many products of an unsigned code of kBits with an int8 fit one int16: pairs of groups
// 2 * 15 * 127 * 8 = 30480, 2 * 31 * 127 * 4 = 31496, 2 * 63 * 127 * 2 = 32004.
template <int kBits>
constexpr int kGroupsPerSum = kBits == 4   ? 8
                              : kBits == 5 ? 4
                                           : 2;

// sums[t][half], int16 pairs, of groups j and j + 4 for j in [kFirst, kFirst + kCount).
template <int kBits, int kFirst, int kCount, int NT>
HWY_INLINE void sum_groups(const uint8_t* p, const ActivationView<NT>& a, __m256i (*low)[2],
                           __m256i (*high)[2]) {
  unroll<kCount>([&](auto step) HEDDLE_LAMBDA {
    unroll<2>([&](auto upper) HEDDLE_LAMBDA {
      constexpr int g = kFirst + step + 4 * upper;
      __m256i(*sums)[2] = upper ? high : low;
      constexpr bool first = step == 0 && (kGroupsPerSum<kBits> == 2 || upper == 0);
      const __m256i w0 = load_codes<kBits>(p, g, 0);
      const __m256i w1 = load_codes<kBits>(p, g, 1);
      unroll<NT>([&](auto t) HEDDLE_LAMBDA {
        const __m256i four = broadcast(a.four(t, g));
        const __m256i m0 = _mm256_maddubs_epi16(w0, four);
        const __m256i m1 = _mm256_maddubs_epi16(w1, four);
        sums[t][0] = pin(first ? m0 : _mm256_add_epi16(sums[t][0], m0));
        sums[t][1] = pin(first ? m1 : _mm256_add_epi16(sums[t][1], m1));
      });
    });
  });
}

template <int NT>
HWY_INLINE void block_dots_signed(const uint8_t* p, const ActivationView<NT>& a, F32x16* dots) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[NT][2];
  unroll<8>([&](auto g) HEDDLE_LAMBDA {
    __m256i w[2];
    __m256i magnitude[2];
    unroll<2>([&](auto h) HEDDLE_LAMBDA {
      w[h] = load_codes<8>(p, g, h);
      magnitude[h] = _mm256_abs_epi8(w[h]);
    });
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      const __m256i four = broadcast(a.four(t, g));
      unroll<2>([&](auto h) HEDDLE_LAMBDA {
        // |w| (a sign w): pairs are at most 2 * 128 * 127 = 32512.
        const __m256i pairs = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(four, w[h]));
        const __m256i words = _mm256_madd_epi16(pairs, ones);
        sums[t][h] = pin(g == 0 ? words : _mm256_add_epi32(sums[t][h], words));
      });
    });
  });
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    unroll<2>([&](auto h) HEDDLE_LAMBDA { dots[t].v[h].raw = _mm256_cvtepi32_ps(sums[t][h]); });
  });
}

// 4-bit codes. The loop over the four byte vectors stays a loop: unrolled, it needs more registers
// than there are. The zero of the codes enters as the start of the 16-bit sums, -4 sum(a) in both
// halves of a row: |15 P - 4 (P - N) + 4 A| <= 30480 for any split of 16 codes (P, N) and the
// 16 others (A), so the final sums fit whatever the order.
template <int kZero, int NT>
HWY_INLINE void block_dots_nibbles(const uint8_t* p, const ActivationView<NT>& a, F32x16* dots) {
  static_assert(kZero == 0 || kZero == 8);
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i fifteen = _mm256_set1_epi8(15);
  __m256i sums[NT][2];
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    sums[t][0] = kZero ? broadcast(a.plane(Activations::kMinus4Pair, t)) : _mm256_setzero_si256();
    sums[t][1] = sums[t][0];
  });
#pragma GCC unroll 1
  for (int j = 0; j < 4; ++j) {
    const __m256i raw0 = load_bytes(p + 64 * j);
    const __m256i raw1 = load_bytes(p + 64 * j + 32);
    unroll<2>([&](auto upper) HEDDLE_LAMBDA {
      const __m256i w0 = _mm256_and_si256(upper ? _mm256_srli_epi16(raw0, 4) : raw0, fifteen);
      const __m256i w1 = _mm256_and_si256(upper ? _mm256_srli_epi16(raw1, 4) : raw1, fifteen);
      unroll<NT>([&](auto t) HEDDLE_LAMBDA {
        const __m256i four = broadcast(a.four(t, j + 4 * upper));
        sums[t][0] = pin(_mm256_add_epi16(sums[t][0], _mm256_maddubs_epi16(w0, four)));
        sums[t][1] = pin(_mm256_add_epi16(sums[t][1], _mm256_maddubs_epi16(w1, four)));
      });
    });
  }
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    unroll<2>([&](auto h) HEDDLE_LAMBDA {
      dots[t].v[h].raw = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums[t][h], ones));
    });
  });
}

template <int kBits, int kZero, int NT>
HWY_INLINE void block_dots(const uint8_t* p, const ActivationView<NT>& a, F32x16* dots) {
  if constexpr (kBits == 8) {
    block_dots_signed<NT>(p, a, dots);
  } else if constexpr (kBits == 4) {
    block_dots_nibbles<kZero, NT>(p, a, dots);
  } else {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[NT][2];
    __m256i words[NT][2];
    sum_groups<5, 0, 2, NT>(p, a, sums, sums);
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      unroll<2>([&](auto h) HEDDLE_LAMBDA { words[t][h] = _mm256_madd_epi16(sums[t][h], ones); });
    });
    sum_groups<5, 2, 2, NT>(p, a, sums, sums);
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      unroll<2>([&](auto h) HEDDLE_LAMBDA {
        __m256i sum = _mm256_madd_epi16(sums[t][h], ones);
        sum = _mm256_add_epi32(sum, words[t][h]);
        if constexpr (kZero != 0) sum = _mm256_add_epi32(sum, broadcast(a.plane(minus(kZero), t)));
        dots[t].v[h].raw = _mm256_cvtepi32_ps(sum);
      });
    });
  }
}

// scales: int8 [16][2], one per row and 16-block. dots = sum of scale (code - 32) a. The scales
// stand where the ones stand above: |sum| < 2 * 128 * 16 * 32 * 127 < 2^24.
template <int NT>
HWY_INLINE void block_dots_q6(const uint8_t* p, const std::byte* scales,
                              const ActivationView<NT>& a, F32x16* dots) {
  __m256i pairs[2];   // int16 (first, second) per row
  __m256i first[2];   // (first, first)
  __m256i second[2];  // (second, second)
  unroll<2>([&](auto h) HEDDLE_LAMBDA {
    pairs[h] =
        _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + 16 * h)));
    const __m256i low = _mm256_and_si256(pairs[h], _mm256_set1_epi32(0xffff));
    first[h] = _mm256_or_si256(low, _mm256_slli_epi32(pairs[h], 16));
    const __m256i high = _mm256_srli_epi32(pairs[h], 16);
    second[h] = _mm256_or_si256(high, _mm256_slli_epi32(high, 16));
  });
  __m256i low[NT][2];
  __m256i high[NT][2];
  __m256i words[NT][2];
  const auto weigh = [&](auto t, auto h) HEDDLE_LAMBDA {
    return _mm256_add_epi32(_mm256_madd_epi16(low[t][h], first[h]),
                            _mm256_madd_epi16(high[t][h], second[h]));
  };
  sum_groups<6, 0, 2, NT>(p, a, low, high);
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    unroll<2>([&](auto h) HEDDLE_LAMBDA { words[t][h] = weigh(t, h); });
  });
  sum_groups<6, 2, 2, NT>(p, a, low, high);
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    unroll<2>([&](auto h) HEDDLE_LAMBDA {
      const __m256i offset =
          _mm256_madd_epi16(pairs[h], broadcast(a.plane(Activations::kHalves, t)));
      const __m256i sum = _mm256_sub_epi32(_mm256_add_epi32(words[t][h], weigh(t, h)),
                                           _mm256_slli_epi32(offset, 5));
      dots[t].v[h].raw = _mm256_cvtepi32_ps(sum);
    });
  });
}

#else  // any other target: plain loops

HWY_INLINE int code_at(int bits, const uint8_t* p, int g, int at) {
  if (bits == 8) return static_cast<int8_t>(p[64 * g + at]);
  int code = g < 4 ? p[64 * g + at] & 15 : p[64 * (g - 4) + at] >> 4;
  if (bits == 5) code |= ((p[256 + at] >> g) & 1) << 4;
  if (bits == 6) code |= ((p[256 + 64 * (g / 4) + at] >> (2 * (g % 4))) & 3) << 4;
  return code;
}

// One sum per row over groups [first, last).
template <int NT>
HWY_INLINE void row_sums(int bits, const uint8_t* p, const ActivationView<NT>& a, int t, int first,
                         int last, int32_t* sums) {
  for (int r = 0; r < 16; ++r) sums[r] = 0;
  for (int g = first; g < last; ++g)
    for (int at = 0; at < 64; ++at) sums[at / 4] += code_at(bits, p, g, at) * a.four(t, g)[at % 4];
}

template <int kBits, int kZero, int NT>
HWY_INLINE void block_dots(const uint8_t* p, const ActivationView<NT>& a, F32x16* dots) {
  for (int t = 0; t < NT; ++t) {
    int32_t sums[16];
    float lanes[16];
    row_sums(kBits, p, a, t, 0, 8, sums);
    const int32_t offset = kZero ? *a.plane(minus(kZero), t) : 0;
    for (int r = 0; r < 16; ++r) lanes[r] = static_cast<float>(sums[r] + offset);
    dots[t] = load16(lanes);
  }
}

template <int NT>
HWY_INLINE void block_dots_q6(const uint8_t* p, const std::byte* scales,
                              const ActivationView<NT>& a, F32x16* dots) {
  const auto* scale = reinterpret_cast<const int8_t*>(scales);
  for (int t = 0; t < NT; ++t) {
    int32_t sums[2][16];
    float lanes[16];
    for (int h = 0; h < 2; ++h) row_sums(6, p, a, t, 4 * h, 4 * h + 4, sums[h]);
    for (int r = 0; r < 16; ++r) {
      int32_t total = 0;
      for (int h = 0; h < 2; ++h)
        total +=
            scale[2 * r + h] *
            (sums[h][r] + *a.plane(h ? Activations::kMinus32Rest : Activations::kMinus32Half, t));
      lanes[r] = static_cast<float>(total);
    }
    dots[t] = load16(lanes);
  }
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
