// y = x W^T on the CPU.
//
// A kernel owns 16 rows (one tile) and 1..kMaxTokens tokens and runs over the whole of k in order:
//   float formats  acc[t] = fma(w[k], x[t][k], acc[t])                 for k = 0 ... K - 1
//   block formats  acc[t] = fma(dot[t], w_scale * x_scale[t], acc[t])  for each 32-block, where
//                  dot is an exact integer; formats with a minimum then add minimum * sum(x);
//                  after the last block acc[t] = fma(w[k], outlier, acc[t]) for outliers by k
// The chain of one output is the same whatever the tile, the batch or the thread, hence equal
// bits. Decode streams every tile once (floor: bytes / bandwidth); prefill keeps a group of tiles
// in the second-level cache while all tokens pass (floor: multiply-adds / peak).
#include <hwy/cache_control.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "ops/matmul_layout.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/matmul_cpu.cpp"
#include "ops/simd.h"
// After simd.h: compiled per target.
#include "ops/math-inl.h"
#include "ops/matmul_dot-inl.h"

#ifndef HEDDLE_OPS_MATMUL_WORK
#define HEDDLE_OPS_MATMUL_WORK
namespace heddle::ops {
// One call of matmul, as every thread sees it.
struct MatmulWork {
  const MatmulArgs* args;
  const PackedMatrix::Impl* weights;
  Activations activations;  // when some section is in blocks
};
constexpr int64_t kPrefetchBlocks = 4;      // about 1 KiB ahead
constexpr int64_t kGroupBytes = 192 << 10;  // weights kept in the second-level cache
}  // namespace heddle::ops
#endif

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {

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

// 16 bytes as floats.
HWY_INLINE F32x16 load_u8(const std::byte* p) {
  return F32x16::build([&](int i) HWY_ATTR {
    const hn::Rebind<uint8_t, DI> d8;
    return hn::ConvertTo(
        DF(), hn::PromoteTo(DI(), hn::LoadU(d8, reinterpret_cast<const uint8_t*>(p) + i * kLanes)));
  });
}
HWY_INLINE F32x16 load_half(const std::byte* p) {
  return load16_f16(reinterpret_cast<const uint16_t*>(p));
}

template <DType kType>
struct Format;
#define HEDDLE_FORMAT(type, bits, zero_code, has_minimum, k_quant)  \
  template <>                                                       \
  struct Format<DType::type> {                                      \
    static constexpr int kBits = bits, kZero = zero_code;           \
    static constexpr bool kMinimum = has_minimum, kSuper = k_quant; \
  };
HEDDLE_FORMAT(q4_0, 4, 8, false, false)
HEDDLE_FORMAT(q4_1, 4, 0, true, false)
HEDDLE_FORMAT(q5_0, 5, 16, false, false)
HEDDLE_FORMAT(q5_1, 5, 0, true, false)
HEDDLE_FORMAT(q8_0, 8, 0, false, false)
HEDDLE_FORMAT(q4_k, 4, 0, true, true)
HEDDLE_FORMAT(q5_k, 5, 0, true, true)
HEDDLE_FORMAT(q6_k, 6, 32, false, true)
#undef HEDDLE_FORMAT

// Fetches blocks some way ahead of those in use, into the next tile where this one ends. Decode is
// bound by memory, and the hardware's own prefetching stops at every page and tile.
struct Prefetcher {
  const Section* section;
  const std::byte* tile;
  int64_t block;

  HWY_INLINE void step() {
    if (block >= section->blocks) {
      block -= section->blocks;
      tile += section->tile_bytes;
    }
    const std::byte* codes = tile + block * section->code_bytes;
    hwy::Prefetch(tile + section->scales_at + block * section->scale_bytes);
    for (int64_t line = 0; line < section->code_bytes; line += 64) hwy::Prefetch(codes + line);
    ++block;
  }
};

// Codes of 16 rows at column 4 g + i of a block, less the format's zero.
template <int kBits, int kZero>
HWY_INLINE F32x16 column_codes(const uint8_t* codes, int g, int i) {
  const hn::RebindToUnsigned<DI> du;
  const auto word = [&](int64_t at, int part, int shift) HWY_ATTR {
    const auto* p = reinterpret_cast<const uint32_t*>(codes + at) + part * kLanes;
    return hn::ShiftRightSame(hn::LoadU(du, p), shift);
  };
  return F32x16::build([&](int part) HWY_ATTR {
    if constexpr (kBits == 8) {
      const VI raw = hn::BitCast(DI(), word(64 * g, part, 0));
      return hn::ConvertTo(DF(), hn::ShiftRight<24>(hn::ShiftLeftSame(raw, 24 - 8 * i)));
    } else {
      auto code = hn::And(word(64 * (g & 3), part, 8 * i + (g < 4 ? 0 : 4)), hn::Set(du, 15u));
      if constexpr (kBits == 5)
        code = hn::Or(code, hn::ShiftLeft<4>(hn::And(word(256, part, 8 * i + g), hn::Set(du, 1u))));
      if constexpr (kBits == 6)
        code = hn::Or(code,
                      hn::ShiftLeft<4>(hn::And(word(256 + 64 * (g >> 2), part, 8 * i + 2 * (g & 3)),
                                               hn::Set(du, 3u))));
      return hn::ConvertTo(DF(), hn::Sub(hn::BitCast(DI(), code), hn::Set(DI(), kZero)));
    }
  });
}

// Column k of a tile: 16 weights as the floats they stand for.
template <DType kType>
HWY_INLINE F32x16 column(const Section& s, const std::byte* tile, int64_t k) {
  using F = Format<kType>;
  const int64_t b = k / 32;
  const auto within = static_cast<int>(k % 32);
  const F32x16 code = column_codes<F::kBits, F::kZero>(
      reinterpret_cast<const uint8_t*>(tile) + b * s.code_bytes, within / 4, within % 4);
  const std::byte* scales = tile + s.scales_at + b * s.scale_bytes;
  const std::byte* supers = tile + s.supers_at + b / 8 * s.super_bytes;
  if constexpr (kType == DType::q6_k) {
    HWY_ALIGN float scale[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r)
      scale[r] = static_cast<float>(static_cast<int8_t>(scales[2 * r + within / 16]));
    return mul(mul(load_half(supers), load16(scale)), code);
  } else if constexpr (F::kSuper) {
    const F32x16 minimum = mul(load_half(supers + 32), load_u8(scales + 16));
    return sub(mul(mul(load_half(supers), load_u8(scales)), code), minimum);
  } else if constexpr (F::kMinimum) {
    return fma(load_half(scales), code, load_half(scales + 32));
  } else {
    return mul(load_half(scales), code);
  }
}

template <DType kType, int NT>
void block_tile(const TileWork& tw) {
  using F = Format<kType>;
  const Section& s = *tw.section;
  const int64_t cols = tw.work->weights->cols;
  const auto* codes = reinterpret_cast<const uint8_t*>(tw.tile);
  const std::byte* scales = tw.tile + s.scales_at;
  const std::byte* supers = tw.tile + s.supers_at;
  const Activations& all = tw.work->activations;
  using View = ActivationView<NT>;
  const int64_t group = tw.token / View::kWidth;
  View a{all.codes + group * cols * View::kWidth, all.planes + group * s.blocks * View::kWidth,
         cols * View::kWidth, s.blocks * View::kWidth, all.plane_size()};
  F32x16 acc[NT];
  unroll<NT>([&](auto t) HEDDLE_LAMBDA { acc[t] = zero16(); });
  Prefetcher ahead{&s, tw.tile, kPrefetchBlocks};
  const bool streams = tw.work->args->tokens <= 4;
  F32x16 super_scale = zero16();
  F32x16 super_minimum = zero16();
  for (int64_t b = 0; b < s.blocks; ++b) {
    if (NT <= 4 && streams) ahead.step();
    F32x16 scale;
    F32x16 minimum = zero16();
    if constexpr (F::kSuper) {
      if (b % 8 == 0) {
        super_scale = load_half(supers);
        if constexpr (F::kMinimum) super_minimum = load_half(supers + 32);
        supers += F::kMinimum ? 64 : 32;
      }
      scale = kType == DType::q6_k ? super_scale : mul(super_scale, load_u8(scales));
      // value = scale code - minimum
      if constexpr (F::kMinimum) minimum = mul(super_minimum, sub(zero16(), load_u8(scales + 16)));
    } else {
      scale = load_half(scales);
      if constexpr (F::kMinimum) minimum = load_half(scales + 32);
    }
    F32x16 dots[NT];
    if constexpr (kType == DType::q6_k) {
      block_dots_q6<NT>(codes, scales, a, dots);
    } else {
      block_dots<F::kBits, F::kZero, NT>(codes, a, dots);
    }
    unroll<NT>([&](auto t) HEDDLE_LAMBDA {
      acc[t] = fma(dots[t], mul(scale, set16(a.number(Activations::kScale, t))), acc[t]);
      if constexpr (F::kMinimum)
        acc[t] = fma(minimum, set16(a.number(Activations::kScaledSum, t)), acc[t]);
    });
    codes += s.code_bytes;
    scales += s.scale_bytes;
    a.advance();
  }
  unroll<NT>([&](auto t) HEDDLE_LAMBDA {
    const Outlier* outlier = all.outliers + (tw.token + t) * all.outlier_room();
    for (int32_t i = 0; i < all.outlier_counts[tw.token + t]; ++i)
      acc[t] = fma(column<kType>(s, tw.tile, outlier[i].k), set16(outlier[i].value), acc[t]);
  });
  store_tile<NT>(tw, acc);
}

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
  return {
      {{1, block_tile<kType, 1>}, {2, block_tile<kType, 2>}, {4, block_tile<kType, 4>}, last, last},
      true};
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

struct BlockSums {
  float scale;
  int32_t halves[2];
};
// Takes the values that stand out from x [32], zeroing them; returns how many.
HWY_INLINE int take_outliers(float* x, float largest, Outlier* out) {
  int count = 0;
  while (count < kBlockOutliers) {
    const F32x16 x0 = load16(x);
    const F32x16 x1 = load16(x + 16);
    if (count > 0) largest = max_lane(max(abs(x0), abs(x1)));
    const float others = sum(fma(x0, x0, mul(x1, x1))) - largest * largest;
    constexpr float kSquares = kOutlierDeviations * kOutlierDeviations / 31.0f;
    if (!(largest > 1e-30f && largest * largest > kSquares * others)) break;
    int at = 0;
    while (std::abs(x[at]) != largest) ++at;
    out[count++] = {at, x[at]};
    x[at] = 0;
  }
  if (count == 2 && out[1].k < out[0].k) std::swap(out[0], out[1]);
  return count;
}

// 32 values to codes (nearest even), scale = max |x| / 127 of those that are no outliers.
HWY_INLINE BlockSums quantize_block(const float* source, int8_t* codes, Outlier* outliers,
                                    int& outlier_count) {
  HWY_ALIGN float x[32];
  F32x16 x0 = load16(source);
  F32x16 x1 = load16(source + 16);
  float largest = max_lane(max(abs(x0), abs(x1)));
  store16(x0, x);
  store16(x1, x + 16);
  outlier_count = take_outliers(x, largest, outliers);
  // Zero, or NaN where a value is not finite: integers would hide it.
  const float poison = sum(add(sub(x0, x0), sub(x1, x1)));
  if (!(poison == 0.0f)) {  // codes of what is not finite would be arbitrary integers
    x0 = zero16();
    x1 = zero16();
    largest = 0;
  } else if (outlier_count > 0) {
    x0 = load16(x);
    x1 = load16(x + 16);
    largest = max_lane(max(abs(x0), abs(x1)));
  }
  // Below that the inverse overflows; such a block is as good as zero.
  const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
  BlockSums sums{largest / 127.0f + poison, {}};
  for (int h = 0; h < 2; ++h) {
    const F32x16 scaled = mul(h ? x1 : x0, set16(inverse));
    VI total = hn::Zero(DI());
    for (int i = 0; i < kParts; ++i) {
      const VI q = hn::NearestInt(scaled.v[i]);
      const hn::Rebind<int8_t, DI> d8;
      hn::StoreU(hn::DemoteTo(d8, q), d8, codes + 16 * h + i * kLanes);
      total = hn::Add(total, q);
    }
    sums.halves[h] = hn::GetLane(hn::SumOfLanes(DI(), total));
  }
  return sums;
}

// Token groups [begin, end) of the activations.
void quantize_groups(const MatmulWork& work, int64_t begin, int64_t end) {
  const MatmulArgs& args = *work.args;
  const Activations& out = work.activations;
  const int64_t width = out.width;
  alignas(64) int8_t codes[32];
  for (int64_t group = begin; group < end; ++group) {
    for (int64_t t = 0; t < width; ++t) {
      const int64_t token = group * width + t;
      const float* x = args.x + token * args.x_stride;
      Outlier* outliers = out.outliers + token * out.outlier_room();
      int32_t outlier_count = 0;
      for (int64_t b = 0; b < out.blocks; ++b) {
        BlockSums sums{};
        if (token < args.tokens) {
          int found = 0;
          sums = quantize_block(x + 32 * b, codes, outliers + outlier_count, found);
          for (; found > 0; --found) outliers[outlier_count++].k += static_cast<int32_t>(32 * b);
        } else {
          std::memset(codes, 0, sizeof codes);
        }
        const int64_t block = group * out.blocks + b;
        int8_t* to = out.codes + 32 * block * width + 4 * t;
        for (int g = 0; g < 8; ++g) std::memcpy(to + 4 * g * width, codes + 4 * g, 4);
        const int32_t first = sums.halves[0];
        const int32_t second = sums.halves[1];
        const int32_t sum = first + second;
        const float scaled_sum = sums.scale * static_cast<float>(sum);
        const int16_t fours[2] = {static_cast<int16_t>(-4 * sum), static_cast<int16_t>(-4 * sum)};
        const int16_t halves[2] = {static_cast<int16_t>(first), static_cast<int16_t>(second)};
        int32_t* plane = out.planes + block * width + t;
        const int64_t size = out.plane_size();
        std::memcpy(plane + Activations::kScale * size, &sums.scale, 4);
        std::memcpy(plane + Activations::kScaledSum * size, &scaled_sum, 4);
        plane[Activations::kMinus8 * size] = -8 * sum;
        plane[Activations::kMinus16 * size] = -16 * sum;
        plane[Activations::kMinus128 * size] = -128 * sum;
        std::memcpy(plane + Activations::kMinus4Pair * size, fours, 4);
        std::memcpy(plane + Activations::kHalves * size, halves, 4);
        plane[Activations::kMinus32Half * size] = -32 * first;
        plane[Activations::kMinus32Rest * size] = -32 * second;
      }
      out.outlier_counts[token] = outlier_count;
    }
  }
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
    a.codes = ctx.scratch.allocate<int8_t>(a.plane_size() * 32);
    a.planes = ctx.scratch.allocate<int32_t>(a.plane_size() * Activations::kPlanes);
    a.outliers = ctx.scratch.allocate<Outlier>(a.groups * a.width * a.outlier_room());
    a.outlier_counts = ctx.scratch.allocate<int32_t>(a.groups * a.width);
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
