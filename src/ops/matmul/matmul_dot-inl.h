// Integer dot products of one 32-block of a tile (16 rows, layout in matmul_layout.h) with the
// codes of up to a few tokens. The integers are exact, so every target returns the same floats.
// Intrinsics, as in matmul_panel-inl.h and matmul_quantize-inl.h: Highway 1.0.3 offers neither
// vpmaddubsw nor vpdpbusd.
//
// dots[t] = float(sum_k (code[r][k] - zero) a[t][k]), r = lane; |sum| < 2^24, so exact.
#include <cstdint>
#include <cstring>

#include "backend/simd/simd.h"
#include "ops/matmul/matmul_layout.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"
#include "ops/matmul/matmul_tile-inl.h"
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

// Group g of a block for a panel: unsigned codes, those of 8 bits + 128. out [64]
template <int kBits>
HWY_INLINE void store_codes(const uint8_t* codes, int g, uint8_t* out) {
  __m512i w = load_codes<kBits>(codes, g);
  if constexpr (kBits == 8) w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
  _mm512_store_si512(out, w);
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

// One of them as a panel keeps it.
using HalfScale = float;
HWY_INLINE void store_half_scales(const std::byte* scales, HalfScale* first, HalfScale* second) {
  const HalfScales halves = half_scales(scales);
  _mm512_store_ps(first, halves.first);
  _mm512_store_ps(second, halves.second);
}
HWY_INLINE F32x16 load_half_scale(const HalfScale* scales) { return load16(scales); }

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

// Group g of a block for a panel. out [64]
template <int kBits>
HWY_INLINE void store_codes(const uint8_t* codes, int g, uint8_t* out) {
  unroll<2>([&](auto h) HEDDLE_LAMBDA {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 32 * h), load_codes<kBits>(codes, g, h));
  });
}

// Scales of 16-blocks of rows 8 half ... 8 half + 7, from int8 [16][2]: each twice, so that a
// multiplication of pairs of 16-bit sums with it ends both.
struct TwiceScales {
  __m256i first;
  __m256i second;
};
HWY_INLINE TwiceScales twice_scales(const std::byte* scales, int half) {
  const __m256i pairs =
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + 16 * half)));
  const __m256i low = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
  const __m256i high = _mm256_srli_epi32(pairs, 16);
  return {_mm256_or_si256(low, _mm256_slli_epi32(pairs, 16)),
          _mm256_or_si256(high, _mm256_slli_epi32(high, 16))};
}

// One of them as a panel keeps it.
struct HalfScale {
  int16_t twice[2];
};
// first, second [16]
HWY_INLINE void store_half_scales(const std::byte* scales, HalfScale* first, HalfScale* second) {
  unroll<2>([&](auto h) HEDDLE_LAMBDA {
    const TwiceScales twice = twice_scales(scales, h);
    _mm256_store_si256(reinterpret_cast<__m256i*>(first + 8 * h), twice.first);
    _mm256_store_si256(reinterpret_cast<__m256i*>(second + 8 * h), twice.second);
  });
}
HWY_INLINE F32x16 load_half_scale(const HalfScale* scales) {
  const auto* words = reinterpret_cast<const int32_t*>(scales);
  return F32x16::build([&](int part) HWY_ATTR {
    return hn::ConvertTo(DF(), hn::ShiftRight<16>(hn::LoadU(DI(), words + part * kLanes)));
  });
}

// Sums of 16 bits. A half of a row's lane takes the products of two codes of each group: 16 in a
// block, |code - zero| * 127 each, so that a block of 4 bits or of 5 bits with a zero fits (16 * 16
// * 127 = 32512), whatever passes the range on the way, if the zero enters as what the sums start
// with: kMinus8Pairs, kMinus16Pairs. Without a zero codes of 5 bits fit by four groups: 31 * 127
// * 8. Of 6 bits, each half of a block with scales of its own: 8 * 32 * 127.
template <int kZero>
constexpr Activations::Plane kStart =
    kZero == 8 ? Activations::kMinus8Pairs : Activations::kMinus16Pairs;

// Sums of all groups, or of the two halves of them one after the other: part(i, h) is what rows
// 8 h ... of the sums of half i are multiplied with, start(i, t) what they begin with, weights(g,
// h) a group's codes, group(i, n) the n-th group of half i.
template <int NT, int kHalves, class Group, class Weights, class Start, class Part>
HWY_INLINE void sum_halves(const ActivationView<NT>& a, Group group, Weights weights, Start start,
                           Part part, F32x16* dots) {
  __m256i words[NT][2];
  unroll<kHalves>([&](auto i) HEDDLE_LAMBDA {
    __m256i sums[NT][2];
    unroll<NT>([&](auto t) HEDDLE_LAMBDA { sums[t][0] = sums[t][1] = start(i, t); });
    unroll<8 / kHalves>([&](auto n) HEDDLE_LAMBDA {
      const int g = group(i, n);
      const __m256i w0 = weights(g, 0);
      const __m256i w1 = weights(g, 1);
      unroll<NT>([&](auto t) HEDDLE_LAMBDA {
        const __m256i four = broadcast(a.four(t, g));
        sums[t][0] = pin(_mm256_add_epi16(sums[t][0], _mm256_maddubs_epi16(w0, four)));
        sums[t][1] = pin(_mm256_add_epi16(sums[t][1], _mm256_maddubs_epi16(w1, four)));
      });
    });
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      unroll<2>([&](auto h) HEDDLE_LAMBDA {
        const __m256i sum = _mm256_madd_epi16(sums[t][h], part(i, h));
        words[t][h] = i == 0 ? sum : _mm256_add_epi32(words[t][h], sum);
      });
    });
  });
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    unroll<2>([&](auto h) HEDDLE_LAMBDA { dots[t].v[h].raw = _mm256_cvtepi32_ps(words[t][h]); });
  });
}

// 8-bit codes, groups kStride bytes apart.
template <int NT, int kStride>
HWY_INLINE void block_dots_signed(const uint8_t* p, const ActivationView<NT>& a, F32x16* dots) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[NT][2];
  unroll<8>([&](auto g) HEDDLE_LAMBDA {
    __m256i w[2];
    __m256i magnitude[2];
    unroll<2>([&](auto h) HEDDLE_LAMBDA {
      w[h] = load_bytes(p + kStride * g + 32 * h);
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
// than there are.
template <int kZero, int NT>
HWY_INLINE void block_dots_nibbles(const uint8_t* p, const ActivationView<NT>& a, F32x16* dots) {
  static_assert(kZero == 0 || kZero == 8);
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i fifteen = _mm256_set1_epi8(15);
  __m256i sums[NT][2];
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    sums[t][0] = kZero ? broadcast(a.plane(kStart<kZero>, t)) : _mm256_setzero_si256();
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
    block_dots_signed<NT, 64>(p, a, dots);
  } else if constexpr (kBits == 4) {
    block_dots_nibbles<kZero, NT>(p, a, dots);
  } else {
    // Both nibbles of a byte vector.
    const auto group = [](int i, int n) HEDDLE_LAMBDA { return 2 * i + n / 2 + n % 2 * 4; };
    const auto weights = [&](int g, int h) HEDDLE_LAMBDA { return load_codes<kBits>(p, g, h); };
    const auto start = [&](int, int t) HEDDLE_LAMBDA {
      return kZero ? broadcast(a.plane(kStart<kZero>, t)) : _mm256_setzero_si256();
    };
    const auto ones = [](int, int) HEDDLE_LAMBDA { return _mm256_set1_epi16(1); };
    sum_halves<NT, kZero == 0 ? 2 : 1>(a, group, weights, start, ones, dots);
  }
}

// scales: int8 [16][2], one per row and 16-block. dots = sum of scale (code - 32) a. The scales
// stand where the ones stand above: |sum| < 2 * 128 * 16 * 32 * 127 < 2^24.
template <int NT>
HWY_INLINE void block_dots_q6(const uint8_t* p, const std::byte* scales,
                              const ActivationView<NT>& a, F32x16* dots) {
  const TwiceScales by[2] = {twice_scales(scales, 0), twice_scales(scales, 1)};
  const auto group = [](int i, int n) HEDDLE_LAMBDA { return 4 * i + n; };
  const auto weights = [&](int g, int h) HEDDLE_LAMBDA { return load_codes<6>(p, g, h); };
  const auto start = [&](int i, int t) HEDDLE_LAMBDA {
    return broadcast(
        a.plane(i ? Activations::kMinus32RestPairs : Activations::kMinus32HalfPairs, t));
  };
  const auto part = [&](int i, int h) HEDDLE_LAMBDA { return i ? by[h].second : by[h].first; };
  sum_halves<NT, 2>(a, group, weights, start, part, dots);
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
