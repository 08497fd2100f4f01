// Prompt products of block formats, compiled once per target.
//
// A panel is a few neighbouring tiles over kPanelBlocks blocks, unpacked once into the first-level
// cache: one unsigned byte a code, one float a scale. A kernel multiplies it with four tokens, and
// every token passes before the next panel is unpacked, so that weights come from memory once and
// activations kPanelTiles times less often than tile by tile.
//
//   avx512  keeps kPanelTiles x 4 integer and as many float sums in registers. A block costs one
//           dot instruction per 4 columns, tile and token, one broadcast per 4 columns and token,
//           and three float instructions per tile and token: 8 of 11 instructions on the vector
//           ports multiply, so the floor is 72% of the int8 peak.
//   avx2    keeps 2 x 4 sums of 16 bits, one tile's; the float sums pass through the cache. A block
//           of 4-bit codes costs a multiplication and an addition per 4 columns, half tile and
//           token, and four instructions to end each sum: 128 of 160 on four vector ports. No
//           instruction widens to 32 bits before the end of a block, which the int8 peak counts:
//           the floor is 125% of it.
//
// The chain of one output is that of block_tile(): equal bits.
#include <algorithm>
#include <cstdint>

#include "backend/simd/simd.h"
#include "ops/matmul/matmul_layout.h"
// After simd.h: compiled per target.
#include "ops/matmul/matmul_dot-inl.h"
#include "ops/matmul/matmul_format-inl.h"

#if defined(HEDDLE_OPS_MATMUL_PANEL_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_MATMUL_PANEL_INL_H
#undef HEDDLE_OPS_MATMUL_PANEL_INL_H
#else
#define HEDDLE_OPS_MATMUL_PANEL_INL_H
#endif

// Where panels pay; other targets multiply tile by tile.
#undef HEDDLE_MATMUL_PANELS
#define HEDDLE_MATMUL_PANELS (HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2)
#if HEDDLE_MATMUL_PANELS

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {

constexpr int64_t kPanelTiles = HWY_TARGET == HWY_AVX3_DL ? 3 : 2;
constexpr int64_t kPanelBlocks = Activations::kStretch;
constexpr int64_t kPanelTokens = 512;  // that pass while a panel is in the cache
// Fewer tokens do not repay the unpacking.
constexpr int64_t kLeastPanelTokens = 16;

struct Panel {
  alignas(64) uint8_t codes[kPanelBlocks][8][kPanelTiles][64];
  alignas(64) float scales[kPanelBlocks][kPanelTiles][16];
  alignas(64) float minima[kPanelBlocks][kPanelTiles][16];  // formats with a minimum
  // q6_k: scales of the 16-blocks, in the form in which the target multiplies with them.
  alignas(64) HalfScale halves[kPanelBlocks][2][kPanelTiles][16];
};
// Sums of kPanelTokens tokens between two panels: [quads][kPanelTiles][4][16].
struct PanelSums {
  alignas(64) float quads[kPanelTokens / 4][kPanelTiles][4][16];
};

// What the codes of a panel exceed those of the format by. Codes of 8 bits are signed under AVX2.
template <DType kType>
constexpr int kPanelOffset = Format<kType>::kBits < 8    ? Format<kType>::kZero
                             : HWY_TARGET == HWY_AVX3_DL ? 128
                                                         : 0;

// Blocks [first, first + blocks) of tile `index` of a panel.
template <DType kType>
HWY_NOINLINE void unpack_tile(const Section& s, const std::byte* tile, int64_t first,
                              int64_t blocks, int64_t index, Panel& out) {
  using F = Format<kType>;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t block = first + b;
    const auto* codes = reinterpret_cast<const uint8_t*>(tile + s.codes_at(block));
    const std::byte* scales_at = tile + s.scales_at(block);
    const RowScales scales = row_scales<kType>(scales_at, tile + s.supers_at(block));
    unroll<8>([&](auto g)
                  HEDDLE_LAMBDA { store_codes<F::kBits>(codes, g, out.codes[b][g][index]); });
    store16(scales.scale, out.scales[b][index]);
    if constexpr (F::kMinimum) store16(scales.minimum, out.minima[b][index]);
    if constexpr (kType == DType::q6_k)
      store_half_scales(scales_at, out.halves[b][0][index], out.halves[b][1][index]);
  }
}

// Codes of 16 rows at column k of block b of a panel.
template <DType kType>
HWY_INLINE F32x16 panel_column(const Panel& panel, int64_t index, int64_t b, int64_t k) {
  const auto* words = reinterpret_cast<const int32_t*>(panel.codes[b][k / 4][index]);
  const auto i = static_cast<int>(k % 4);
  return F32x16::build([&](int part) HWY_ATTR {
    // The byte to the top of its lane, and down again.
    const VI top = hn::ShiftLeftSame(hn::LoadU(DI(), words + part * kLanes), 24 - 8 * i);
    VI code;
    if constexpr (Format<kType>::kBits == 8 && kPanelOffset<kType> == 0) {
      code = hn::ShiftRight<24>(top);
    } else {
      const hn::RebindToUnsigned<DI> du;
      code = hn::BitCast(DI(), hn::ShiftRight<24>(hn::BitCast(du, top)));
    }
    return hn::ConvertTo(DF(), hn::Sub(code, hn::Set(DI(), kPanelOffset<kType>)));
  });
}

// acc[tile][t] += weights of the panel's tiles times the values that stood out, by k. counts [4];
// the outliers of each token kStretchOutliers apart.
template <DType kType>
HWY_NOINLINE void panel_outliers(const Panel& panel, int64_t tiles, const Outlier* outliers,
                                 const int32_t* counts, float (*acc)[4][16]) {
  for (int64_t t = 0; t < 4; ++t, outliers += Activations::kStretchOutliers) {
    for (int64_t i = 0; i < tiles && counts[t] != 0; ++i) {
      F32x16 sums = load16(acc[i][t]);
      for (int32_t n = 0; n < counts[t]; ++n) {
        const int64_t b = outliers[n].k / 32;
        const int64_t k = outliers[n].k % 32;
        const F32x16 code = panel_column<kType>(panel, i, b, k);
        RowScales scales{load16(panel.scales[b][i]), zero16()};
        if constexpr (Format<kType>::kMinimum) scales.minimum = load16(panel.minima[b][i]);
        F32x16 half = zero16();
        if constexpr (kType == DType::q6_k) half = load_half_scale(panel.halves[b][k / 16][i]);
        sums = fma(weigh<kType>(scales, half, code), set16(outliers[n].value), sums);
      }
      store16(sums, acc[i][t]);
    }
  }
}

// What a kernel reads ahead while it multiplies: `lines` lines of each tile from `from` on.
struct PanelFetch {
  const std::byte* from;
  int64_t lines;
};

#if HWY_TARGET == HWY_AVX3_DL

// Adds groups [kFirst, kFirst + kCount) of a block.
template <int kFirst, int kCount, int kTiles>
HWY_INLINE void panel_dots(const uint8_t (*codes)[kPanelTiles][64], const ActivationView<4>& a,
                           __m512i (*sums)[4]) {
  unroll<kCount>([&](auto step) HEDDLE_LAMBDA {
    constexpr int g = kFirst + step;
    __m512i w[kTiles];
    unroll<kTiles>([&](auto i) HEDDLE_LAMBDA { w[i] = _mm512_load_si512(codes[g][i]); });
    unroll<4>([&](auto t) HEDDLE_LAMBDA {
      const __m512i four = broadcast(a.four(t, g));
      unroll<kTiles>(
          [&](auto i) HEDDLE_LAMBDA { sums[i][t] = _mm512_dpbusd_epi32(sums[i][t], w[i], four); });
    });
  });
}

// Every format is one of bytes here, but for q6_k, whose halves have scales of their own.
template <DType kType>
constexpr int kPanelBits = kType == DType::q6_k ? 6 : 8;
template <DType kType>
constexpr Activations::Plane kPanelStart = minus(kPanelOffset<kType>);

// kTiles tiles of a panel times four tokens; acc [kPanelTiles][4][16], taken as zero if `fresh`.
// Codes and planes come as numbers: a struct would come through memory, and reading it back would
// wait for every store before it. start: the plane that the sums of a format without minima begin
// with.
template <int kBits, bool kMinimum, int kTiles>
void panel_quad(const Panel& panel, int64_t blocks, const int8_t* codes, const int32_t* planes,
                int64_t plane_size, Activations::Plane start, bool fresh, float (*acc)[4][16],
                PanelFetch fetch, int64_t tile_bytes) {
  ActivationView<4> a{codes, planes, 0, 0, plane_size};
  const int64_t lines = (fetch.lines + blocks - 1) / blocks;  // a block
  const std::byte* const fetch_end = fetch.from + 64 * fetch.lines;
  __m512 total[kTiles][4];
  unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
    unroll<4>([&](auto t) HEDDLE_LAMBDA {
      total[i][t] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(acc[i][t]);
    });
  });
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t n = 0; n < lines && fetch.from < fetch_end; ++n, fetch.from += 64)
      unroll<kTiles>([&](auto i)
                         HEDDLE_LAMBDA { __builtin_prefetch(fetch.from + i * tile_bytes); });
    __m512i sums[kTiles][4];
    const auto start_sums = [&](Activations::Plane plane) HEDDLE_LAMBDA {
      unroll<4>([&](auto t) HEDDLE_LAMBDA {
        const __m512i value = kMinimum ? _mm512_setzero_si512() : broadcast(a.plane(plane, t));
        unroll<kTiles>([&](auto i) HEDDLE_LAMBDA { sums[i][t] = value; });
      });
    };
    if constexpr (kBits == 6) {
      __m512 dots[kTiles][4];
      start_sums(Activations::kMinus32Half);
      panel_dots<0, 4, kTiles>(panel.codes[b], a, sums);
      unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
        const __m512 scale = _mm512_load_ps(panel.halves[b][0][i]);
        unroll<4>([&](auto t) HEDDLE_LAMBDA {
          dots[i][t] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][t]), scale);
        });
      });
      start_sums(Activations::kMinus32Rest);
      panel_dots<4, 4, kTiles>(panel.codes[b], a, sums);
      unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
        const __m512 scale = _mm512_load_ps(panel.halves[b][1][i]);
        const __m512 super = _mm512_load_ps(panel.scales[b][i]);
        unroll<4>([&](auto t) HEDDLE_LAMBDA {
          const __m512 dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][t]), scale, dots[i][t]);
          total[i][t] = _mm512_fmadd_ps(
              dot, _mm512_mul_ps(super, _mm512_set1_ps(a.number(Activations::kScale, t))),
              total[i][t]);
        });
      });
    } else {
      start_sums(start);
      panel_dots<0, 8, kTiles>(panel.codes[b], a, sums);
      unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
        const __m512 scale = _mm512_load_ps(panel.scales[b][i]);
        unroll<4>([&](auto t) HEDDLE_LAMBDA {
          total[i][t] = _mm512_fmadd_ps(
              _mm512_cvtepi32_ps(sums[i][t]),
              _mm512_mul_ps(scale, _mm512_set1_ps(a.number(Activations::kScale, t))), total[i][t]);
        });
        if constexpr (kMinimum) {
          const __m512 minimum = _mm512_load_ps(panel.minima[b][i]);
          unroll<4>([&](auto t) HEDDLE_LAMBDA {
            total[i][t] = _mm512_fmadd_ps(
                minimum, _mm512_set1_ps(a.number(Activations::kScaledSum, t)), total[i][t]);
          });
        }
      });
    }
    a.advance();
  }
  unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
    unroll<4>([&](auto t) HEDDLE_LAMBDA { _mm512_store_ps(acc[i][t], total[i][t]); });
  });
}

#else  // AVX2

// Codes of 5 bits with a zero are multiplied like those of 4 (kStart).
template <DType kType>
constexpr int kPanelBits = kType == DType::q5_0 ? 4 : Format<kType>::kBits;
template <DType kType>
constexpr Activations::Plane kPanelStart = kStart<Format<kType>::kZero>;

// dots [4] of one block. start: the plane that the sums of a format
// without minima begin with.
template <int kBits, bool kMinimum>
HWY_INLINE void panel_dots(const uint8_t (*codes)[kPanelTiles][64], const HalfScale* first_scales,
                           const HalfScale* second_scales, const ActivationView<4>& a,
                           Activations::Plane start, F32x16* dots) {
  if constexpr (kBits == 8) return block_dots_signed<4, kPanelTiles * 64>(codes[0][0], a, dots);
  constexpr int kHalves = kBits == 4 ? 1 : 2;
  const auto group = [](int i, int n) HEDDLE_LAMBDA { return 4 * i + n; };
  const auto weights = [&](int g, int h) HEDDLE_LAMBDA { return load_bytes(codes[g][0] + 32 * h); };
  const auto begin = [&](int i, int t) HEDDLE_LAMBDA {
    if (kMinimum) return _mm256_setzero_si256();
    if (kBits == 4) return broadcast(a.plane(start, t));
    return broadcast(
        a.plane(i ? Activations::kMinus32RestPairs : Activations::kMinus32HalfPairs, t));
  };
  const auto part = [&](int i, int h) HEDDLE_LAMBDA {
    if (kBits != 6) return _mm256_set1_epi16(1);
    return load_bytes((i ? second_scales : first_scales) + 8 * h);
  };
  sum_halves<4, kHalves>(a, group, weights, begin, part, dots);
}

// Tile `index` of a panel times four tokens; acc [4][16], taken as zero if `fresh`.
template <int kBits, bool kMinimum>
void panel_quad(const Panel& panel, int64_t index, int64_t blocks, const int8_t* codes,
                const int32_t* planes, int64_t plane_size, Activations::Plane start, bool fresh,
                float (*acc)[16], PanelFetch fetch) {
  ActivationView<4> a{codes, planes, 0, 0, plane_size};
  const int64_t lines = (fetch.lines + blocks - 1) / blocks;  // a block
  const std::byte* const fetch_end = fetch.from + 64 * fetch.lines;
  if (fresh) std::memset(acc, 0, 4 * sizeof acc[0]);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t n = 0; n < lines && fetch.from < fetch_end; ++n, fetch.from += 64)
      __builtin_prefetch(fetch.from);
    F32x16 dots[4];
    const auto* block =
        reinterpret_cast<const uint8_t(*)[kPanelTiles][64]>(panel.codes[b][0][index]);
    panel_dots<kBits, kMinimum>(block, panel.halves[b][0][index], panel.halves[b][1][index], a,
                                start, dots);
    unroll<4>([&](auto t) HEDDLE_LAMBDA {
      const __m256 x_scale = _mm256_set1_ps(a.number(Activations::kScale, t));
      unroll<2>([&](auto h) HEDDLE_LAMBDA {
        const __m256 scale = _mm256_load_ps(panel.scales[b][index] + 8 * h);
        __m256 sum = _mm256_fmadd_ps(dots[t].v[h].raw, _mm256_mul_ps(scale, x_scale),
                                     _mm256_load_ps(acc[t] + 8 * h));
        if constexpr (kMinimum)
          sum = _mm256_fmadd_ps(_mm256_load_ps(panel.minima[b][index] + 8 * h),
                                _mm256_set1_ps(a.number(Activations::kScaledSum, t)), sum);
        _mm256_store_ps(acc[t] + 8 * h, sum);
      });
    });
    a.advance();
  }
}

#endif

// The kernels of one format.
struct PanelFormat {
  void (*unpack)(const Section& s, const std::byte* tile, int64_t first, int64_t blocks,
                 int64_t index, Panel& out);
  void (*outliers)(const Panel& panel, int64_t tiles, const Outlier* outliers,
                   const int32_t* counts, float (*acc)[4][16]);
#if HWY_TARGET == HWY_AVX3_DL
  decltype(&panel_quad<8, false, 1>) quads[kPanelTiles];  // of 1 ... kPanelTiles tiles
#else
  decltype(&panel_quad<4, false>) quad;
#endif
  Activations::Plane start;
};
template <DType kType>
PanelFormat panel_format() {
  constexpr bool kMinimum = Format<kType>::kMinimum;
  constexpr int kBits = kPanelBits<kType>;
  return {
    unpack_tile<kType>, panel_outliers<kType>,
#if HWY_TARGET == HWY_AVX3_DL
        {panel_quad<kBits, kMinimum, 1>, panel_quad<kBits, kMinimum, 2>,
         panel_quad<kBits, kMinimum, 3>},
#else
        panel_quad<kBits, kMinimum>,
#endif
        kPanelStart<kType>
  };
}

// `tiles` tiles of a panel times four tokens; acc [kPanelTiles][4][16], taken as zero if `fresh`.
// fetch: of the first of as many tiles, `tile_bytes` apart.
HWY_INLINE void multiply_panel(const PanelFormat& format, const Panel& panel, int64_t tiles,
                               int64_t blocks, const int8_t* codes, const int32_t* planes,
                               int64_t plane_size, bool fresh, float (*acc)[4][16],
                               PanelFetch fetch, int64_t tile_bytes) {
#if HWY_TARGET == HWY_AVX3_DL
  format.quads[tiles - 1](panel, blocks, codes, planes, plane_size, format.start, fresh, acc, fetch,
                          tile_bytes);
#else
  for (int64_t i = 0; i < tiles; ++i, fetch.from += tile_bytes)
    format.quad(panel, i, blocks, codes, planes, plane_size, format.start, fresh, acc[i], fetch);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#endif  // HEDDLE_MATMUL_PANELS

#endif  // toggled guard
