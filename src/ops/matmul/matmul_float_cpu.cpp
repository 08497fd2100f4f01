// Products with weights in float formats on the CPU. A kernel owns one tile, or some neighbouring
// ones, and some tokens and runs over the whole of k in order:
//   acc[t] = fma(w[k], x[t][k], acc[t])   for k = 0 ... K - 1
#include <algorithm>

#include "base/check.h"
#include "ops/matmul/matmul_work.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/matmul/matmul_float_cpu.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"
#include "ops/matmul/matmul_tile-inl.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace heddle::ops {
namespace HWY_NAMESPACE {

// Tokens of one kernel call at most: what fits the registers.
constexpr int kMostTokens = HWY_TARGET == HWY_AVX3_DL ? 16 : HWY_TARGET == HWY_AVX2 ? 6 : 1;
// Chains of fused multiply-adds that hide their latency on two ports: kernels for few tokens take
// several tiles at once.
constexpr int kChains = 8 * kParts <= 16 ? 8 / kParts : 1;

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

struct FloatKernel {
  int64_t tokens;
  void (*one)(const TileWork&);  // one tile
  int64_t many_tiles;            // tiles of `many`
  void (*many)(const TileWork&);
};
template <class T, int NT>
constexpr FloatKernel float_kernel() {
  constexpr int kMany = NT >= kChains ? 1 : std::min(4, kChains / NT);
  return {NT, float_tile<T, NT, 1>, kMany, float_tile<T, NT, kMany>};
}
// The kernel for the most tokens of those that are left.
template <class T>
FloatKernel float_kernel_for(int64_t left) {
  if constexpr (kMostTokens >= 16)
    if (left >= 16) return float_kernel<T, 16>();
  if constexpr (kMostTokens >= 6)
    if (left >= std::min(8, kMostTokens)) return float_kernel<T, std::min(8, kMostTokens)>();
  if constexpr (kMostTokens >= 4) {
    if (left >= 4) return float_kernel<T, 4>();
    if (left >= 2) return float_kernel<T, 2>();
  }
  return float_kernel<T, 1>();
}
FloatKernel kernel_for(DType dtype, int64_t left) {
  switch (dtype) {
    case DType::f32:
      return float_kernel_for<float>(left);
    case DType::f16:
      return float_kernel_for<F16>(left);
    case DType::bf16:
      return float_kernel_for<Bf16>(left);
    default:
      HEDDLE_CHECK(false, "no kernel for {}", dtype_info(dtype).name);
  }
}

// Prompts keep a group of tiles in the second-level cache while all tokens pass.
void float_section(const MatmulWork& work, const Section& s, int64_t begin, int64_t end) {
  constexpr int64_t kGroupBytes = 192 << 10;
  const int64_t tokens = work.args->tokens;
  const int64_t group = tokens > 1 ? std::max<int64_t>(1, kGroupBytes / s.tile_bytes) : s.tiles;
  for (int64_t first = begin; first < end; first += group) {
    const int64_t last = std::min(end, first + group);
    for (int64_t token = 0; token < tokens;) {
      const FloatKernel kernel = kernel_for(s.dtype, tokens - token);
      int64_t tile = first;
      for (; kernel.many_tiles > 1 && tile + kernel.many_tiles <= last; tile += kernel.many_tiles)
        kernel.many({work.weights->tile(s, tile), &s, &work, token, kernel.tokens});
      for (; tile < last; ++tile)
        kernel.one({work.weights->tile(s, tile), &s, &work, token, kernel.tokens});
      token += kernel.tokens;
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
HWY_EXPORT(float_section);

void multiply_floats(const MatmulWork& work, const Section& section, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(float_section)(work, section, begin, end);
}

}  // namespace heddle::ops
#endif  // HWY_ONCE
