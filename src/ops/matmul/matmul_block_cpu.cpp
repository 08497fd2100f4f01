// Products with weights in block formats on the CPU, in int8. A kernel owns one tile and some
// tokens and runs over the whole of k in order:
//   acc[t] = fma(dot[t], w_scale * x_scale[t], acc[t])   for each 32-block, where dot is an exact
//            integer; formats with a minimum then add minimum * sum(x)
//   acc[t] = fma(w[k], outlier, acc[t])                  after every 16 blocks, for their outliers
//            by k
// Up to four tokens read a tile once, as it comes from memory (floor: bytes / bandwidth). With a
// few more they pass a tile in turns, each of which fetches a share of the next one, so that memory
// and arithmetic work at the same time. Prompts multiply with unpacked panels (matmul_panel-inl.h).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "ops/matmul/matmul_work.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/matmul/matmul_block_cpu.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target. g++ 12 takes the undefined vector inside some intrinsics for a
// mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "backend/simd/math-inl.h"
#include "ops/matmul/matmul_dot-inl.h"
#include "ops/matmul/matmul_format-inl.h"
#include "ops/matmul/matmul_panel-inl.h"
#include "ops/matmul/matmul_quantize-inl.h"
#include "ops/matmul/matmul_tile-inl.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

// How far ahead up to four tokens fetch weights: a little more than a core reads while memory
// answers (40 GB/s x 150 ns).
constexpr int64_t kFetchBytes = 8 << 10;

// Where the kernel's turn with a tile reads ahead: of each `turns` pairs of blocks the one that
// comes `turn`, `ahead` bytes from where it multiplies.
struct FetchTurn {
  int64_t ahead;
  int64_t turns;
  int64_t turn;
};

// acc[t] += weights of the tile times the values that stood out of the token's stretch, by k.
// counts, outliers: of the tokens.
template <DType kType>
HWY_NOINLINE void add_outliers(const Section& s, const std::byte* tile, int64_t stretch,
                               const Outlier* outliers, const int32_t* counts, int64_t tokens,
                               F32x16* acc) {
  for (int64_t t = 0; t < tokens; ++t, outliers += Activations::kStretchOutliers)
    for (int32_t i = 0; i < counts[t]; ++i)
      acc[t] = fma(column<kType>(s, tile, stretch * Activations::kStretch * 32 + outliers[i].k),
                   set16(outliers[i].value), acc[t]);
}

template <DType kType, int NT>
void block_tile(const TileWork& tw, const FetchTurn& fetch) {
  using F = Format<kType>;
  const Section& s = *tw.section;
  const Activations& all = tw.work->activations;
  ActivationView<NT> a;
  F32x16 acc[NT];
  unroll<NT>([&](auto t) HEDDLE_LAMBDA { acc[t] = zero16(); });
  int64_t wait = fetch.turn;      // pairs until this turn's
  const std::byte* at = tw.tile;  // of the pair of blocks
  const std::byte* supers = at;
  for (int64_t b = 0; b < s.blocks;) {
    if (b % Activations::kStretch == 0) a = activation_view<NT>(all, tw.token, b);
    if (F::kSuper && b % 8 == 0) {
      supers = at;
      at += F::kSuperBytes;
    }
    // Also what follows the tile, the section or, needlessly, the matrix.
    if (--wait < 0) {
      wait = fetch.turns - 1;
      for (int64_t line = 0; line < F::kPairBytes + F::kSuperBytes; line += 64)
        __builtin_prefetch(at + fetch.ahead + line);
    }
    for (int64_t half = 0; half < 2 && b < s.blocks; ++half, ++b) {
      const auto* codes = reinterpret_cast<const uint8_t*>(at) + half * F::kCodeBytes;
      const std::byte* scales_at = at + 2 * F::kCodeBytes + half * F::kScaleBytes;
      const RowScales scales = row_scales<kType>(scales_at, supers);
      F32x16 dots[NT];
      if constexpr (kType == DType::q6_k) {
        block_dots_q6<NT>(codes, scales_at, a, dots);
      } else {
        block_dots<F::kBits, F::kZero, NT>(codes, a, dots);
      }
      unroll<NT>([&](auto t) HEDDLE_LAMBDA {
        acc[t] = fma(dots[t], mul(scales.scale, set16(a.number(Activations::kScale, t))), acc[t]);
        if constexpr (F::kMinimum)
          acc[t] = fma(scales.minimum, set16(a.number(Activations::kScaledSum, t)), acc[t]);
      });
      a.advance();
    }
    at += F::kPairBytes;
    if (b % Activations::kStretch == 0 || b == s.blocks) {
      const int64_t stretch = (b - 1) / Activations::kStretch;
      const int32_t* counts = all.outlier_counts + all.outliers_at(stretch, tw.token);
      int32_t any = 0;
      unroll<NT>([&](auto t) HEDDLE_LAMBDA { any |= counts[t]; });
      if (any == 0) continue;
      const Outlier* outliers =
          all.outliers + all.outliers_at(stretch, tw.token) * Activations::kStretchOutliers;
      F32x16 sums[NT];
      unroll<NT>([&](auto t) HEDDLE_LAMBDA { sums[t] = acc[t]; });
      add_outliers<kType>(s, tw.tile, stretch, outliers, counts, NT, sums);
      unroll<NT>([&](auto t) HEDDLE_LAMBDA { acc[t] = sums[t]; });
    }
  }
  store_tile<NT>(tw, acc);
}

#if HEDDLE_MATMUL_PANELS

// Panel by panel: tiles [tile, tile + kTiles) with all tokens [token, token + tokens), at most
// kPanelTokens, token a multiple of 4. next: the tiles that follow.
void panel_tiles(const MatmulWork& work, const Section& s, const PanelFormat& format,
                 const std::byte* tile, int64_t tiles, const std::byte* next, int64_t token,
                 int64_t tokens, Panel& panel, PanelSums& sums) {
  const Activations& all = work.activations;
  const MatmulArgs& args = *work.args;
  const int64_t quads = (tokens + 3) / 4;
  const int64_t row = s.first_row + (tile - work.weights->tile(s, 0)) / s.tile_bytes * kTileRows;
  for (int64_t first = 0; first < s.blocks; first += kPanelBlocks) {
    const int64_t blocks = std::min(kPanelBlocks, s.blocks - first);
    for (int64_t i = 0; i < tiles; ++i)
      format.unpack(s, tile + i * s.tile_bytes, first, blocks, i, panel);
    const bool last = first + blocks == s.blocks;
    // Of the panel that comes next, a portion with every quad.
    const int64_t next_block = last ? 0 : first + blocks;
    const std::byte* fetch = (last ? next : tile) + s.pair_at(next_block) - s.super_bytes;
    const int64_t end = s.pair_at(std::min(next_block + kPanelBlocks, s.blocks + s.blocks % 2));
    int64_t lines = (end - s.pair_at(next_block) + 63) / 64;
    const int64_t portion = (lines + quads - 1) / quads;
    const int64_t index = all.index(token / 4, first);
    const int64_t outliers_at = all.outliers_at(first / kPanelBlocks, token);
    for (int64_t q = 0; q < quads; ++q) {
      const int64_t rows = std::min<int64_t>(4, tokens - 4 * q);
      if (last) {
        // Lines that are about to be written, most of them far from each other.
        const float* y = args.y + (token + 4 * q) * args.y_stride + row;
        for (int64_t t = 0; t < rows; ++t, y += args.y_stride)
          for (int64_t i = 0; i < tiles; ++i) __builtin_prefetch(y + 16 * i, 1);
      }
      const int64_t at = (index + q * blocks) * 4;
      const PanelFetch ahead{fetch, std::min(portion, lines)};
      fetch += 64 * ahead.lines;
      lines -= ahead.lines;
      multiply_panel(format, panel, tiles, blocks, all.codes + 32 * at, all.planes + at,
                     all.plane_size(), first == 0, sums.quads[q], ahead, s.tile_bytes);
      const int32_t* counts = all.outlier_counts + outliers_at + 4 * q;
      if ((counts[0] | counts[1] | counts[2] | counts[3]) != 0)
        format.outliers(panel, tiles,
                        all.outliers + (outliers_at + 4 * q) * Activations::kStretchOutliers,
                        counts, sums.quads[q]);
      for (int64_t i = 0; last && i < tiles; ++i) {
        F32x16 acc[4];
        unroll<4>([&](auto t) HEDDLE_LAMBDA { acc[t] = load16(sums.quads[q][i][t]); });
        store_sums({tile + i * s.tile_bytes, &s, &work, token + 4 * q, rows}, acc);
      }
    }
  }
}

void section_panels(const MatmulWork& work, const Section& s, const PanelFormat& format,
                    int64_t begin, int64_t end) {
  Panel panel;
  PanelSums sums;
  for (int64_t token = 0; token < work.args->tokens; token += kPanelTokens) {
    const int64_t tokens = std::min(kPanelTokens, work.args->tokens - token);
    for (int64_t index = begin; index < end; index += kPanelTiles) {
      const std::byte* tile = work.weights->tile(s, index);
      // Fewer may follow; what is fetched in vain belongs to the matrix all the same, or is this
      // one.
      const bool more = index + 2 * kPanelTiles <= s.tiles;
      const std::byte* next = more ? work.weights->tile(s, index + kPanelTiles) : tile;
      panel_tiles(work, s, format, tile, std::min(kPanelTiles, end - index), next, token, tokens,
                  panel, sums);
    }
  }
}

#endif

// Tokens of one kernel call at most: what fits the registers.
constexpr int kMostTokens = HWY_TARGET == HWY_AVX3_DL ? 8 : HWY_TARGET == HWY_AVX2 ? 4 : 1;

// The kernels of a format.
using TileKernel = void (*)(const TileWork&, const FetchTurn&);
struct BlockKernels {
  TileKernel one;  // token
#if HEDDLE_MATMUL_PANELS
  TileKernel two;
  TileKernel four;
  TileKernel most;  // kMostTokens
  PanelFormat panels;
#endif
};
template <DType kType>
BlockKernels block_kernels() {
#if HEDDLE_MATMUL_PANELS
  return {block_tile<kType, 1>, block_tile<kType, 2>, block_tile<kType, 4>,
          block_tile<kType, kMostTokens>, panel_format<kType>()};
#else
  return {block_tile<kType, 1>};
#endif
}
BlockKernels kernels_of(DType dtype) {
  switch (dtype) {
    case DType::q4_0:
      return block_kernels<DType::q4_0>();
    case DType::q4_1:
      return block_kernels<DType::q4_1>();
    case DType::q5_0:
      return block_kernels<DType::q5_0>();
    case DType::q5_1:
      return block_kernels<DType::q5_1>();
    case DType::q8_0:
      return block_kernels<DType::q8_0>();
    case DType::q4_k:
      return block_kernels<DType::q4_k>();
    case DType::q5_k:
      return block_kernels<DType::q5_k>();
    case DType::q6_k:
      return block_kernels<DType::q6_k>();
    default:
      HEDDLE_CHECK(false, "no kernel for {}", dtype_info(dtype).name);
  }
}

// The kernel for the first of the `left` tokens of a call.
TileKernel kernel_for(const BlockKernels& kernels, int64_t width, int64_t left) {
#if HEDDLE_MATMUL_PANELS
  if (width == 2) return kernels.two;
  if (width == 4) return left <= 4 ? kernels.four : kernels.most;
#endif
  HEDDLE_CHECK(width == 1 && left >= 1, "activations {} tokens wide, {} left", width, left);
  return kernels.one;
}

// A few tokens: tile by tile, every tile in turns of kMostTokens.
void block_section(const MatmulWork& work, const Section& s, int64_t begin, int64_t end) {
  const BlockKernels kernels = kernels_of(s.dtype);
  const int64_t tokens = work.args->tokens;
#if HEDDLE_MATMUL_PANELS
  if (tokens >= kLeastPanelTokens) return section_panels(work, s, kernels.panels, begin, end);
#endif
  const int64_t turns = (tokens + kMostTokens - 1) / kMostTokens;
  const int64_t ahead = turns == 1 ? kFetchBytes : s.tile_bytes;
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t token = turn * kMostTokens;
      const int64_t left = tokens - token;
      kernel_for(kernels, work.activations.width, left)(
          {work.weights->tile(s, tile), &s, &work, token, std::min<int64_t>(left, kMostTokens)},
          {ahead, turns, turn});
    }
  }
}

// Tokens side by side in the activations of `tokens` tokens.
int64_t group_width(int64_t tokens) {
  if (kMostTokens == 1) return 1;
  return tokens >= 3 ? 4 : tokens;
}

void quantize_groups(const MatmulWork& work, int64_t begin, int64_t end) {
  const Activations& out = work.activations;
  if (out.width == 1) return quantize_width<1>(*work.args, out, begin, end);
#if HEDDLE_MATMUL_PANELS
  if (out.width == 2) return quantize_width<2>(*work.args, out, begin, end);
  return quantize_width<4>(*work.args, out, begin, end);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops {
HWY_EXPORT(block_section);
HWY_EXPORT(group_width);
HWY_EXPORT(quantize_groups);

void multiply_blocks(const MatmulWork& work, const Section& section, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(block_section)(work, section, begin, end);
}
int64_t activation_width(int64_t tokens) { return HWY_DYNAMIC_DISPATCH(group_width)(tokens); }
void quantize_activations(const MatmulWork& work, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(quantize_groups)(work, begin, end);
}

}  // namespace heddle::ops
#endif  // HWY_ONCE
