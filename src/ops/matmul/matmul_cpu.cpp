// y = x W^T on the CPU.
//
// A kernel owns 16 rows (one tile) and 1..kMaxTokens tokens and runs over the whole of k in order:
//   float formats  acc[t] = fma(w[k], x[t][k], acc[t])                 for k = 0 ... K - 1
//   block formats  acc[t] = fma(dot[t], w_scale * x_scale[t], acc[t])  for each 32-block, where
//                  dot is an exact integer; formats with a minimum then add minimum * sum(x);
//                  after every 16 blocks acc[t] = fma(w[k], outlier, acc[t]) for their outliers by
//                  k
// The chain of one output is the same whatever the tile, the batch or the thread, hence equal
// bits. Decode streams every tile once (floor: bytes / bandwidth); prefill keeps a group of tiles
// in the second-level cache while all tokens pass, or under AVX-512 a panel of them in the first
// (matmul_panel-inl.h; floor: multiply-adds / peak).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/denormals.h"
#include "ops/matmul/matmul_layout.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/matmul/matmul_cpu.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target. g++ 12 takes the undefined vector inside some intrinsics for a
// mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "backend/simd/math-inl.h"
#include "ops/matmul/matmul_dot-inl.h"
#include "ops/matmul/matmul_format-inl.h"
#include "ops/matmul/matmul_panel-inl.h"
#include "ops/matmul/matmul_quantize-inl.h"

#ifndef HEDDLE_OPS_MATMUL_WORK
#define HEDDLE_OPS_MATMUL_WORK
namespace heddle::ops {
// One call of matmul, as every thread sees it.
struct MatmulWork {
  const MatmulArgs* args;
  const PackedMatrix::Impl* weights;
  Activations activations;  // when some section is in blocks
};
// How far ahead decode fetches weights: a little more than a core reads while memory answers
// (40 GB/s x 150 ns).
constexpr int64_t kFetchBytes = 8 << 10;
constexpr int64_t kGroupBytes = 192 << 10;  // weights kept in the second-level cache
}  // namespace heddle::ops
#endif

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

// Tokens of one kernel call: what fits the registers.
constexpr int kBlockTokens = HWY_TARGET == HWY_AVX3_DL ? 8 : 4;  // groups of up to 4
constexpr int kFloatTokens = HWY_TARGET == HWY_AVX3_DL ? 16 : 6;
// Chains of fused multiply-adds that hide their latency on two ports: float kernels for few tokens
// take several tiles at once.
constexpr int kChains = 8 * kParts <= 16 ? 8 / kParts : 1;

struct TileWork {
  const std::byte* tile;
  const Section* section;
  const MatmulWork* work;
  int64_t token;   // first
  int64_t tokens;  // to be stored; block kernels may compute some more
};

template <int NT>
HWY_INLINE void store_tile(const TileWork& tw, const F32x16* acc) {
  const MatmulArgs& args = *tw.work->args;
  const Section& s = *tw.section;
  const int64_t index = (tw.tile - tw.work->weights->data.get() - s.offset) / s.tile_bytes;
  const int64_t rows = std::min(kTileRows, s.rows - index * kTileRows);
  float* y = args.y + tw.token * args.y_stride + s.first_row + index * kTileRows;
  // Constant indices: an array indexed at run time would make the kernel keep it in memory.
  if (rows == kTileRows && tw.tokens == NT) {
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      float* to = y + t * args.y_stride;
      const F32x16 value = acc[t];
      store16(args.accumulate ? add(load16(to), value) : value, to);
    });
    return;
  }
  HWY_ALIGN float values[NT][kTileRows];
  unroll<NT>([&](auto t) HEDDLE_LAMBDA { store16(acc[t], values[t]); });
  for (int64_t t = 0; t < tw.tokens; ++t, y += args.y_stride)
    for (int64_t r = 0; r < rows; ++r) y[r] = args.accumulate ? y[r] + values[t][r] : values[t][r];
}

HWY_INLINE F32x16 load_weights(const float* p) { return load16(p); }
struct F16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};
HWY_INLINE F32x16 load_weights(const F16* p) { return load16_f16(&p->bits); }
HWY_INLINE F32x16 load_weights(const Bf16* p) { return load16_bf16(&p->bits); }

// kTiles neighbouring tiles of a section.
template <class T, int NT, int kTiles>
void float_tile(const TileWork& tw) {
  const MatmulArgs& args = *tw.work->args;
  const auto* w = reinterpret_cast<const T*>(tw.tile);
  const int64_t tile_stride = tw.section->tile_bytes / static_cast<int64_t>(sizeof(T));
  const float* x = args.x + tw.token * args.x_stride;
  const int64_t stride = args.x_stride;
  const int64_t cols = tw.work->weights->cols;
  F32x16 acc[kTiles][NT];
  unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
    unroll<NT>([&](auto t) HEDDLE_LAMBDA { acc[i][t] = zero16(); });
  });
  for (int64_t k = 0; k < cols; ++k, w += kTileRows) {
    unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
      const F32x16 weights = load_weights(w + i * tile_stride);
      unroll<NT>([&](auto t) HEDDLE_LAMBDA {
        acc[i][t] = fma(weights, set16(x[t * stride + k]), acc[i][t]);
      });
    });
  }
  unroll<kTiles>([&](auto i) HEDDLE_LAMBDA {
    TileWork one = tw;
    one.tile += i * tw.section->tile_bytes;
    store_tile<NT>(one, acc[i]);
  });
}

// acc[t] += weights of the tile times the values that stood out of the token's stretch, by k.
template <DType kType, int NT>
HWY_INLINE void add_outliers(const Section& s, const std::byte* tile, const Activations& all,
                             int64_t token, int64_t stretch, F32x16* acc) {
  const int64_t at = all.outliers_at(stretch, token);
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    const Outlier* outlier = all.outliers + (at + t) * Activations::kStretchOutliers;
    for (int32_t i = 0; i < all.outlier_counts[at + t]; ++i)
      acc[t] = fma(column<kType>(s, tile, stretch * Activations::kStretch * 32 + outlier[i].k),
                   set16(outlier[i].value), acc[t]);
  });
}

template <DType kType, int NT>
void block_tile(const TileWork& tw) {
  using F = Format<kType>;
  const Section& s = *tw.section;
  const Activations& all = tw.work->activations;
  ActivationView<NT> a;
  F32x16 acc[NT];
  unroll<NT>([&](auto t) HEDDLE_LAMBDA { acc[t] = zero16(); });
  const bool streams = NT <= 4 && tw.work->args->tokens <= 4;
  const std::byte* at = tw.tile;  // of the pair of blocks
  const std::byte* supers = at;
  for (int64_t b = 0; b < s.blocks;) {
    if (b % Activations::kStretch == 0) a = activation_view<NT>(all, tw.token, b);
    if (F::kSuper && b % 8 == 0) {
      supers = at;
      at += F::kSuperBytes;
    }
    // Also what follows the tile, the section or, needlessly, the matrix.
    if (streams) {
      for (int64_t line = 0; line < F::kPairBytes + F::kSuperBytes; line += 64)
        __builtin_prefetch(at + kFetchBytes + line);
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
    if (b % Activations::kStretch == 0 || b == s.blocks)
      add_outliers<kType, NT>(s, tw.tile, all, tw.token, (b - 1) / Activations::kStretch, acc);
  }
  store_tile<NT>(tw, acc);
}

#if HWY_TARGET == HWY_AVX3_DL
// All tokens with kTiles tiles from `tile` on.
template <DType kType, int kTiles>
void panel_tiles(const MatmulWork& work, const Section& s, const std::byte* tile,
                 const std::byte* next, int64_t token, int64_t tokens, Panel& panel,
                 PanelSums& sums) {
  const MatmulArgs& args = *work.args;
  const int64_t row = s.first_row + (tile - work.weights->tile(s, 0)) / s.tile_bytes * kTileRows;
  // Lines that are about to be written, most of them far from each other.
  const auto expect = [&](int64_t quad) HWY_ATTR {
    const float* y = args.y + (token + 4 * quad) * args.y_stride + row;
    const int64_t rows = std::min<int64_t>(4, tokens - 4 * quad);
    for (int64_t t = 0; t < rows; ++t, y += args.y_stride)
      for (int64_t i = 0; i < kTiles; ++i) __builtin_prefetch(y + 16 * i, 1);
  };
  const auto finish = [&](int64_t quad, const float(*values)[4][16]) HWY_ATTR {
    for (int64_t i = 0; i < kTiles; ++i) {
      TileWork tw{tile + i * s.tile_bytes, &s, &work, token + 4 * quad,
                  std::min<int64_t>(4, tokens - 4 * quad)};
      F32x16 acc[4];
      unroll<4>([&](auto t) HEDDLE_LAMBDA { acc[t] = load16(values[i][t]); });
      store_tile<4>(tw, acc);
    }
  };
  panel_product<kType, kTiles>(s, tile, next, work.activations, token, tokens, panel, sums, expect,
                               finish);
}

template <DType kType>
void section_panels(const MatmulWork& work, const Section& s, int64_t begin, int64_t end) {
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
      switch (std::min(kPanelTiles, end - index)) {
        case 1:
          panel_tiles<kType, 1>(work, s, tile, next, token, tokens, panel, sums);
          break;
        case 2:
          panel_tiles<kType, 2>(work, s, tile, next, token, tokens, panel, sums);
          break;
        default:
          panel_tiles<kType, 3>(work, s, tile, next, token, tokens, panel, sums);
      }
    }
  }
}
#endif

using TileKernel = void (*)(const TileWork&);
struct Kernel {
  int64_t tokens;
  TileKernel one;          // one tile
  int64_t many_tiles = 1;  // tiles of `many`
  TileKernel many = nullptr;
};
// Kernels by the number of tokens they take.
struct Kernels {
  Kernel kernels[5];
  bool padded;  // may take more tokens than there are, within a group of activations
  // Tiles [begin, end) of a section for kLeastPanelTokens and more; may be absent.
  void (*panels)(const MatmulWork& work, const Section& s, int64_t begin, int64_t end) = nullptr;
};

template <class T, int NT>
Kernel float_kernel() {
  constexpr int kMany = NT >= kChains ? 1 : std::min(4, kChains / NT);
  return {NT, float_tile<T, NT, 1>, kMany, float_tile<T, NT, kMany>};
}
template <class T>
Kernels float_kernels() {
  constexpr int kEight = std::min(8, kFloatTokens);
  return {{float_kernel<T, 1>(), float_kernel<T, 2>(), float_kernel<T, 4>(),
           float_kernel<T, kEight>(), float_kernel<T, kFloatTokens>()},
          false};
}
template <DType kType>
Kernels block_kernels() {
  const Kernel last = {kBlockTokens, block_tile<kType, kBlockTokens>};
  Kernels kernels = {
      {{1, block_tile<kType, 1>}, {2, block_tile<kType, 2>}, {4, block_tile<kType, 4>}, last, last},
      true};
#if HWY_TARGET == HWY_AVX3_DL
  kernels.panels = section_panels<kType>;
#endif
  return kernels;
}

Kernels kernels_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return float_kernels<float>();
    case DType::f16:
      return float_kernels<F16>();
    case DType::bf16:
      return float_kernels<Bf16>();
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

// Tiles [begin, end) of one section, all tokens.
void section_tiles(const MatmulWork& work, const Section& s, int64_t begin, int64_t end) {
  const Kernels kernels = kernels_of(s.dtype);
  const int64_t tokens = work.args->tokens;
  if (kernels.panels != nullptr && tokens >= kLeastPanelTokens)
    return kernels.panels(work, s, begin, end);
  const int64_t width = work.activations.width;
  const int64_t group = tokens > 1 ? std::max<int64_t>(1, kGroupBytes / s.tile_bytes) : s.tiles;
  for (int64_t first = begin; first < end; first += group) {
    const int64_t last = std::min(end, first + group);
    for (int64_t token = 0; token < tokens;) {
      const int64_t left = tokens - token;
      const int64_t room = kernels.padded ? (left + width - 1) / width * width : left;
      int size = 4;
      while (kernels.kernels[size].tokens > room) --size;
      const Kernel& kernel = kernels.kernels[size];
      const int64_t count = std::min(left, kernel.tokens);
      int64_t tile = first;
      for (; kernel.many_tiles > 1 && tile + kernel.many_tiles <= last; tile += kernel.many_tiles)
        kernel.many({work.weights->tile(s, tile), &s, &work, token, count});
      for (; tile < last; ++tile)
        kernel.one({work.weights->tile(s, tile), &s, &work, token, count});
      token += count;
    }
  }
}

void matmul_tiles(const MatmulWork& work, int64_t begin, int64_t end) {
  for (const Section& s : work.weights->sections) {
    const int64_t first = std::max<int64_t>(begin - s.first_tile, 0);
    const int64_t last = std::min(end - s.first_tile, s.tiles);
    if (first < last) section_tiles(work, s, first, last);
  }
}

void quantize_groups(const MatmulWork& work, int64_t begin, int64_t end) {
  quantize_activations(*work.args, work.activations, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops {
HWY_EXPORT(matmul_tiles);
HWY_EXPORT(quantize_groups);
namespace {

// First tile of thread `thread`: the work before it is about thread / threads of the whole.
int64_t first_tile(const PackedMatrix::Impl& weights, int64_t tokens, int thread, int threads) {
  // Decode pays for bytes, prefill for multiply-adds, of which every tile has the same.
  const auto cost = [&](const Section& s) { return tokens <= 4 ? s.tile_bytes : int64_t{1}; };
  int64_t total = 0;
  for (const Section& s : weights.sections) total += s.tiles * cost(s);
  int64_t target = total * thread / threads;
  for (const Section& s : weights.sections) {
    if (target < s.tiles * cost(s)) return s.first_tile + target / cost(s);
    target -= s.tiles * cost(s);
  }
  return weights.tiles;
}

// Below this many multiply-adds waking the other threads costs more than they bring.
constexpr int64_t kSerialWork = 32 << 10;
// Below this many activations quantising them on one thread is cheaper than a barrier.
constexpr int64_t kSerialActivations = 16 << 10;

}  // namespace

void cpu::matmul(backend::Context& ctx, const MatmulArgs& args) {
  const FlushDenormals flush;
  const PackedMatrix::Impl& weights = args.weights->impl();
  if (args.tokens <= 0) return;
  HEDDLE_CHECK(args.y_stride >= weights.rows || args.tokens == 1, "y stride {} for {} rows",
               args.y_stride, weights.rows);
  const backend::ArenaScope scope(ctx.scratch);
  MatmulWork work{&args, &weights, {}};
  const bool serial = weights.rows * weights.cols * args.tokens <= kSerialWork;
  if (weights.any_blocks) {
    Activations& a = work.activations;
    a.width = args.tokens >= 3 ? 4 : args.tokens;
    a.groups = (args.tokens + a.width - 1) / a.width;
    a.blocks = weights.cols / 32;
    for (const Section& s : weights.sections) a.used |= Activations::planes_of(s.dtype);
    a.codes = ctx.scratch.allocate<int8_t>(a.plane_size() * 32);
    a.planes = ctx.scratch.allocate<int32_t>(a.plane_size() * Activations::kPlanes);
    const int64_t counts = a.stretches() * a.groups * a.width;
    a.outliers = ctx.scratch.allocate<Outlier>(counts * Activations::kStretchOutliers);
    a.outlier_counts = ctx.scratch.allocate<int32_t>(counts);
    const auto quantize = HWY_DYNAMIC_DISPATCH(quantize_groups);
    if (args.tokens * weights.cols <= kSerialActivations) {
      quantize(work, 0, a.groups);
    } else {
      ctx.pool.parallel_for(a.groups, 1,
                            [&](int64_t begin, int64_t end, int) { quantize(work, begin, end); });
    }
  }
  const auto multiply = HWY_DYNAMIC_DISPATCH(matmul_tiles);
  if (serial || ctx.pool.threads() == 1) return multiply(work, 0, weights.tiles);
  const int threads = ctx.pool.threads();
  ctx.pool.run([&](int thread) {
    multiply(work, first_tile(weights, args.tokens, thread, threads),
             first_tile(weights, args.tokens, thread + 1, threads));
  });
}

}  // namespace heddle::ops
#endif  // HWY_ONCE
