// Prefill products of block formats, compiled once per target.
//
// A panel is a few neighbouring tiles over kPanelBlocks blocks, unpacked once into the first-level
// cache: one unsigned byte a code, one float a scale. A kernel multiplies it with four tokens,
// keeping kPanelTiles x 4 integer and as many float accumulators in registers, and every token
// passes before the next panel is unpacked. A block costs one dot instruction per 4 columns, tile
// and token, one broadcast per 4 columns and token, and three float instructions per tile and
// token: 8 of 11 instructions on the vector ports multiply, so the floor is 72% of the int8 peak.
// The chain of one output is that of block_tile(): equal bits.
#include <hwy/cache_control.h>

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

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {

constexpr int64_t kPanelTiles = 3;
constexpr int64_t kPanelBlocks = Activations::kStretch;
constexpr int64_t kPanelTokens = 512;  // that pass while a panel is in the cache
// Fewer tokens do not repay the unpacking.
constexpr int64_t kLeastPanelTokens = 16;

#if HWY_TARGET == HWY_AVX3_DL

struct Panel {
  alignas(64) uint8_t codes[kPanelBlocks][8][kPanelTiles][64];
  alignas(64) float scales[kPanelBlocks][kPanelTiles][16];
  alignas(64) float minima[kPanelBlocks][kPanelTiles][16];     // formats with a minimum
  alignas(64) float halves[kPanelBlocks][2][kPanelTiles][16];  // q6_k: scales of the 16-blocks
};
// Accumulators of kPanelTokens tokens between two panels: [quads][kPanelTiles][4][16].
struct PanelSums {
  alignas(64) float quads[kPanelTokens / 4][kPanelTiles][4][16];
};

// Blocks [first, first + blocks) of one tile.
template <DType kType>
void unpack_tile(const Section& s, const std::byte* tile, int64_t first, int64_t blocks,
                 int64_t index, Panel& out) {
  using F = Format<kType>;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t block = first + b;
    const auto* codes = reinterpret_cast<const uint8_t*>(tile + s.codes_at(block));
    const std::byte* scales_at = tile + s.scales_at(block);
    const RowScales scales = row_scales<kType>(scales_at, tile + s.supers_at(block));
    unroll<8>([&](auto g) HEDDLE_LAMBDA {
      __m512i w = load_codes<F::kBits>(codes, g);
      if constexpr (F::kBits == 8) w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
      _mm512_store_si512(out.codes[b][g][index], w);
    });
    store16(scales.scale, out.scales[b][index]);
    if constexpr (F::kMinimum) store16(scales.minimum, out.minima[b][index]);
    if constexpr (kType == DType::q6_k) {
      const HalfScales halves = half_scales(scales_at);
      _mm512_store_ps(out.halves[b][0][index], halves.first);
      _mm512_store_ps(out.halves[b][1][index], halves.second);
    }
  }
}

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

// kTiles tiles of a panel times four tokens; acc [kPanelTiles][4][16], taken as zero if `fresh`.
// Codes and planes come as numbers: a struct would come through memory, and reading it back would
// wait for every store before it.
template <DType kType, int kTiles>
void panel_quad(const Panel& panel, int64_t blocks, const int8_t* codes, const int32_t* planes,
                int64_t plane_size, bool fresh, float (*acc)[4][16]) {
  ActivationView<4> a{codes, planes, 0, 0, plane_size};
  using F = Format<kType>;
  constexpr int kOffset = F::kBits == 8 ? 128 : F::kZero;
  __m512 total[kTiles][4];
  unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
    unroll<4>([&](auto t) HEDDLE_LAMBDA {
      total[i][t] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(acc[i][t]);
    });
  });
  for (int64_t b = 0; b < blocks; ++b) {
    __m512i sums[kTiles][4];
    const auto start = [&](Activations::Plane plane) HEDDLE_LAMBDA {
      unroll<4>([&](auto t) HEDDLE_LAMBDA {
        const __m512i value = kOffset ? broadcast(a.plane(plane, t)) : _mm512_setzero_si512();
        unroll<kTiles>([&](auto i) HEDDLE_LAMBDA { sums[i][t] = value; });
      });
    };
    if constexpr (kType == DType::q6_k) {
      __m512 dots[kTiles][4];
      start(Activations::kMinus32Half);
      panel_dots<0, 4, kTiles>(panel.codes[b], a, sums);
      unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
        const __m512 scale = _mm512_load_ps(panel.halves[b][0][i]);
        unroll<4>([&](auto t) HEDDLE_LAMBDA {
          dots[i][t] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][t]), scale);
        });
      });
      start(Activations::kMinus32Rest);
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
      start(minus(kOffset));
      panel_dots<0, 8, kTiles>(panel.codes[b], a, sums);
      unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
        const __m512 scale = _mm512_load_ps(panel.scales[b][i]);
        unroll<4>([&](auto t) HEDDLE_LAMBDA {
          total[i][t] = _mm512_fmadd_ps(
              _mm512_cvtepi32_ps(sums[i][t]),
              _mm512_mul_ps(scale, _mm512_set1_ps(a.number(Activations::kScale, t))), total[i][t]);
        });
        if constexpr (F::kMinimum) {
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

// acc[i][t] += weights of the panel's tiles times the values that stood out, by k. counts [4]; the
// outliers of each token kStretchOutliers apart.
template <DType kType, int kTiles>
HWY_NOINLINE void panel_outliers(const Panel& panel, const Outlier* outliers, const int32_t* counts,
                                 float (*acc)[4][16]) {
  using F = Format<kType>;
  constexpr int kOffset = F::kBits == 8 ? 128 : F::kZero;
  const __m512i byte = _mm512_set1_epi32(255);
  const F32x16 offset = set16(static_cast<float>(kOffset));
  for (int64_t t = 0; t < 4; ++t, outliers += Activations::kStretchOutliers) {
    if (counts[t] == 0) continue;
    F32x16 sums[kTiles];
    unroll<kTiles>([&](auto i) HEDDLE_LAMBDA { sums[i] = load16(acc[i][t]); });
    for (int32_t n = 0; n < counts[t]; ++n) {
      const int64_t b = outliers[n].k / 32;
      const int64_t g = outliers[n].k % 32 / 4;
      const __m128i shift = _mm_cvtsi32_si128(outliers[n].k % 4 * 8);
      const F32x16 value = set16(outliers[n].value);
      unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
        const __m512i word = _mm512_load_si512(panel.codes[b][g][i]);
        F32x16 code;
        code.v[0].raw = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srl_epi32(word, shift), byte));
        if constexpr (kOffset != 0) code = sub(code, offset);
        RowScales scales{load16(panel.scales[b][i]), zero16()};
        if constexpr (F::kMinimum) scales.minimum = load16(panel.minima[b][i]);
        F32x16 half = zero16();
        if constexpr (kType == DType::q6_k) half = load16(panel.halves[b][g / 4][i]);
        sums[i] = fma(weigh<kType>(scales, half, code), value, sums[i]);
      });
    }
    unroll<kTiles>([&](auto i) HEDDLE_LAMBDA { store16(sums[i], acc[i][t]); });
  }
}

// Fetches the weights of the panel that comes next, a portion with every quad.
class PanelFetch {
 public:
  PanelFetch(const Section& s, const std::byte* tile, int64_t tiles, int64_t first, int64_t quads)
      : s_(s), tiles_(tiles), from_(tile + s.pair_at(first) - s.super_bytes) {
    const int64_t end = s.pair_at(std::min(first + kPanelBlocks, s.blocks + s.blocks % 2));
    lines_ = (end - s.pair_at(first) + 63) / 64;
    portion_ = (lines_ * tiles + quads - 1) / quads;
  }
  HWY_INLINE void step() {
    for (int64_t n = 0; n < portion_ && at_ < tiles_; ++n) {
      hwy::Prefetch(from_ + at_ * s_.tile_bytes + 64 * line_);
      if (++line_ == lines_) {
        line_ = 0;
        ++at_;
      }
    }
  }

 private:
  const Section& s_;
  int64_t tiles_;
  const std::byte* from_;
  int64_t lines_;
  int64_t portion_;
  int64_t at_ = 0;
  int64_t line_ = 0;
};

// kTiles tiles from `tile` on, tokens [token, token + tokens) with tokens at most kPanelTokens and
// token a multiple of 4. `expect(quad)` comes some time before `finish(quad, sums)`, which gets the
// sums [kTiles][4][16]; `next` are the tiles that follow.
template <DType kType, int kTiles, class Expect, class Finish>
void panel_product(const Section& s, const std::byte* tile, const std::byte* next,
                   const Activations& all, int64_t token, int64_t tokens, Panel& panel,
                   PanelSums& sums, Expect expect, Finish finish) {
  const int64_t quads = (tokens + 3) / 4;
  for (int64_t first = 0; first < s.blocks; first += kPanelBlocks) {
    const int64_t blocks = std::min(kPanelBlocks, s.blocks - first);
    for (int64_t i = 0; i < kTiles; ++i)
      unpack_tile<kType>(s, tile + i * s.tile_bytes, first, blocks, i, panel);
    const bool last = first + blocks == s.blocks;
    PanelFetch fetch(s, last ? next : tile, kTiles, last ? 0 : first + blocks, quads);
    const int64_t index = all.index(token / 4, first);
    const int64_t outliers_at = all.outliers_at(first / kPanelBlocks, token);
    for (int64_t q = 0; q < quads; ++q) {
      fetch.step();
      if (last) expect(q);
      const int64_t at = (index + q * blocks) * 4;
      panel_quad<kType, kTiles>(panel, blocks, all.codes + 32 * at, all.planes + at,
                                all.plane_size(), first == 0, sums.quads[q]);
      const int32_t* counts = all.outlier_counts + outliers_at + 4 * q;
      if ((counts[0] | counts[1] | counts[2] | counts[3]) != 0)
        panel_outliers<kType, kTiles>(
            panel, all.outliers + (outliers_at + 4 * q) * Activations::kStretchOutliers, counts,
            sums.quads[q]);
      if (last) finish(q, sums.quads[q]);
    }
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
