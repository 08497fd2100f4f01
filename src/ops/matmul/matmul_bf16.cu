#include <algorithm>

#include "backend/cuda/copy_async.cuh"
#include "backend/cuda/status.cuh"
#include "base/check.h"
#include "ops/matmul/matmul_cuda.h"

namespace heddle::ops::cuda {
namespace {

using namespace backend::cuda;

constexpr int kSplits = static_cast<int>(kMatmulSplits);
constexpr int kThreads = 256;
// A step is 32 columns: lane q of a row's four reads columns [8 q, 8 q + 8) with one access. The
// first four of every lane are the 16 columns of one product, the last four those of the next.
constexpr int kStep = 32;

struct Operands {
  const float* x;
  int64_t x_stride;
  const uint16_t* x16;
  const uint16_t* weights;
  float* y;
  int64_t y_stride;
  int tokens, rows, cols;
  bool accumulate;
};

// Steps of a piece of K.
__host__ __device__ inline int piece_steps(int cols) {
  return (cols / kStep + kSplits - 1) / kSplits;
}

// Sixteen rows of W times kTiles times eight tokens. Products on one sum stand apart, so that none
// waits for the last.
template <int kTiles>
__device__ inline void multiply(float (&c)[kTiles][4], const uint4& upper, const uint4& lower,
                                const uint4 (&b)[kTiles]) {
  const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
  for (int n = 0; n < kTiles; ++n) mma(c[n], first, b[n].x, b[n].y);
  const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
  for (int n = 0; n < kTiles; ++n) mma(c[n], second, b[n].z, b[n].w);
}

__device__ inline uint4 load_stream(const uint16_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

__device__ inline uint4 load_rounded(const float* p) {
  const float4 a = *reinterpret_cast<const float4*>(p);
  const float4 b = *reinterpret_cast<const float4*>(p + 4);
  return {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
}

// 16 rows of W a block, a piece of K a warp. Tokens are the columns of products, eight a tile; one
// tile of them is rounded on the way.
template <int kTiles>
__global__ void __launch_bounds__(kThreads) few_tokens_kernel(const Operands a) {
  constexpr int kUnroll = kTiles <= 2 ? 4 : 2;
  __shared__ float parts[kSplits][8 * kTiles][16];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, q = lane % 4;
  const int steps = piece_steps(a.cols);
  const int first = warp * steps, end = min(a.cols / kStep, first + steps);
  const uint16_t* upper = a.weights + (int64_t{blockIdx.x} * 16 + group) * a.cols + q * 8;
  const uint16_t* lower = upper + int64_t{8} * a.cols;
  float c[kTiles][4] = {};
  for (int s = first; s < end; s += kUnroll) {
    uint4 w0[kUnroll], w1[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (s + u >= end) break;
      w0[u] = load_stream(upper + (s + u) * kStep);
      w1[u] = load_stream(lower + (s + u) * kStep);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (s + u >= end) break;
      uint4 b[kTiles];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const int64_t token = n * 8 + group, column = (s + u) * kStep + q * 8;
        if (token >= a.tokens)
          b[n] = uint4{};
        else if (kTiles == 1)
          b[n] = load_rounded(a.x + token * a.x_stride + column);
        else
          b[n] = *reinterpret_cast<const uint4*>(a.x16 + token * a.cols + column);
      }
      multiply(c, w0[u], w1[u], b);
    }
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    for (int i = 0; i < 4; ++i) parts[warp][n * 8 + 2 * q + i % 2][group + i / 2 * 8] = c[n][i];
  __syncthreads();
  const int row = threadIdx.x % 16;
  for (int token = threadIdx.x / 16; token < a.tokens; token += kThreads / 16) {
    float total = 0;
    for (int s = 0; s < kSplits; ++s) total = __fadd_rn(total, parts[s][token][row]);
    float& y = a.y[token * a.y_stride + int64_t{blockIdx.x} * 16 + row];
    y = a.accumulate ? __fadd_rn(y, total) : total;
  }
}

__global__ void __launch_bounds__(kThreads) round_kernel(const Operands a, uint16_t* out) {
  const int64_t pieces = int64_t{a.tokens} * a.cols / 8;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < pieces;
       i += int64_t{kThreads} * gridDim.x) {
    const int64_t token = i * 8 / a.cols, column = i * 8 % a.cols;
    reinterpret_cast<uint4*>(out)[i] = load_rounded(a.x + token * a.x_stride + column);
  }
}

// 128 rows of W times kTokens rows of x a block, through the shared memory in steps of 64-byte
// rows: eight lanes that read 16 bytes each of two rows meet no bank twice.
constexpr int kTileRows = 128;
constexpr int kStages = 4;

template <int kRowTiles, int kWarpRows, int kTokens>
struct Tile {
  static constexpr int kTokenTiles = kTokens / (8 / kWarpRows) / 8;
  static constexpr int kStageBytes = (kTileRows + kTokens) * 64;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static_assert(kRowTiles * kWarpRows * 16 == kTileRows);
};

template <class T, int kTokens>
__device__ inline void fetch(const Operands& a, std::byte* stage, int step) {
  for (int i = threadIdx.x; i < (kTileRows + kTokens) * 4; i += kThreads) {
    const int r = i / 4, q = i % 4;
    const bool is_weight = r < kTileRows;
    const int row = is_weight ? blockIdx.x * kTileRows + r : blockIdx.y * kTokens + r - kTileRows;
    const bool valid = row < (is_weight ? a.rows : a.tokens);
    const uint16_t* from =
        (is_weight ? a.weights : a.x16) + int64_t{valid ? row : 0} * a.cols + step * kStep + q * 8;
    copy16_or_zero(stage + i * 16, from, valid);
  }
}

template <int kRowTiles, int kWarpRows, int kTokens>
__global__ void __launch_bounds__(kThreads, 1) many_tokens_kernel(const Operands a) {
  using T = Tile<kRowTiles, kWarpRows, kTokens>;
  extern __shared__ std::byte shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, q = lane % 4;
  const int row0 = warp % kWarpRows * kRowTiles * 16,
            token0 = warp / kWarpRows * T::kTokenTiles * 8;
  const int steps = a.cols / kStep, piece = piece_steps(a.cols);
  float c[kRowTiles][T::kTokenTiles][4] = {}, total[kRowTiles][T::kTokenTiles][4] = {};
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) fetch<T, kTokens>(a, shared + s * T::kStageBytes, s);
    close_copies();
  }
  int left = piece;
  for (int s = 0; s < steps; ++s) {
    wait_copies<kStages - 2>();
    __syncthreads();
    const int next = s + kStages - 1;
    if (next < steps) fetch<T, kTokens>(a, shared + next % kStages * T::kStageBytes, next);
    close_copies();
    const auto* tile = reinterpret_cast<const uint4*>(shared + s % kStages * T::kStageBytes);
    uint4 b[T::kTokenTiles];
#pragma unroll
    for (int n = 0; n < T::kTokenTiles; ++n)
      b[n] = tile[(kTileRows + token0 + n * 8 + group) * 4 + q];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const uint4 upper = tile[(row0 + m * 16 + group) * 4 + q];
      const uint4 lower = tile[(row0 + m * 16 + group + 8) * 4 + q];
      multiply(c[m], upper, lower, b);
    }
    if (--left > 0 && s + 1 < steps) continue;
    left = piece;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < T::kTokenTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[m][n][i] = __fadd_rn(total[m][n][i], c[m][n][i]);
          c[m][n][i] = 0;
        }
  }
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int n = 0; n < T::kTokenTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = blockIdx.x * kTileRows + row0 + m * 16 + group + i / 2 * 8;
        const int token = blockIdx.y * kTokens + token0 + n * 8 + 2 * q + i % 2;
        if (row >= a.rows || token >= a.tokens) continue;
        float& y = a.y[token * a.y_stride + row];
        y = a.accumulate ? __fadd_rn(y, total[m][n][i]) : total[m][n][i];
      }
}

template <int kRowTiles, int kWarpRows, int kTokens>
Status many_tokens(const Operands& a, cudaStream_t stream) {
  using T = Tile<kRowTiles, kWarpRows, kTokens>;
  const auto kernel = many_tokens_kernel<kRowTiles, kWarpRows, kTokens>;
  HEDDLE_TRY_STATUS(status_of(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes),
      "preparing matmul"));
  const dim3 grid(static_cast<unsigned>((a.rows + kTileRows - 1) / kTileRows),
                  static_cast<unsigned>((a.tokens + kTokens - 1) / kTokens));
  kernel<<<grid, kThreads, T::kSharedBytes, stream>>>(a);
  return launched("matmul");
}

}  // namespace

Status matmul_bf16(const Stream& stream, const MatmulBf16Args& args) {
  HEDDLE_CHECK(args.rows % 16 == 0 && args.cols % kStep == 0 && args.x_stride % 4 == 0,
               "a matrix of {} x {}, x_stride {}", args.rows, args.cols, args.x_stride);
  if (args.tokens == 0 || args.rows == 0) return {};
  const auto raw = static_cast<cudaStream_t>(stream.handle());
  auto* x16 = reinterpret_cast<uint16_t*>(args.workspace);
  const Operands a = {args.x,
                      args.x_stride,
                      x16,
                      args.weights,
                      args.y,
                      args.y_stride,
                      static_cast<int>(args.tokens),
                      static_cast<int>(args.rows),
                      static_cast<int>(args.cols),
                      args.accumulate};
  if (args.tokens <= kMatmulFewTokens) {
    few_tokens_kernel<1><<<static_cast<unsigned>(args.rows / 16), kThreads, 0, raw>>>(a);
    return launched("matmul");
  }
  const int64_t pieces = args.tokens * args.cols / 8;
  round_kernel<<<static_cast<unsigned>(std::min<int64_t>((pieces + 255) / 256, 132 * 8)), kThreads,
                 0, raw>>>(a, x16);
  HEDDLE_TRY_STATUS(launched("rounding the operand of matmul"));
  if (args.tokens <= 64) {
    const auto kernel = args.tokens <= 16   ? few_tokens_kernel<2>
                        : args.tokens <= 32 ? few_tokens_kernel<4>
                                            : few_tokens_kernel<8>;
    kernel<<<static_cast<unsigned>(args.rows / 16), kThreads, 0, raw>>>(a);
    return launched("matmul");
  }
  // Large tiles do more with what they read, where there are enough of them for the chip.
  const int64_t tiles = (args.rows + 127) / 128 * ((args.tokens + 127) / 128);
  return tiles < 128 ? many_tokens<1, 8, 32>(a, raw) : many_tokens<4, 2, 128>(a, raw);
}

}  // namespace heddle::ops::cuda
