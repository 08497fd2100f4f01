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

__device__ inline void multiply(float (&c)[4], const uint4& upper, const uint4& lower,
                                const uint4& b) {
  const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
  mma(c, first, b.x, b.y);
  const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
  mma(c, second, b.z, b.w);
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

// 16 rows of W a block, a piece of K a warp. Tokens are the eight columns of a product.
__global__ void __launch_bounds__(kThreads) few_tokens_kernel(const Operands a) {
  constexpr int kUnroll = 4;
  __shared__ float parts[kSplits][8][16];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, q = lane % 4;
  const int steps = piece_steps(a.cols);
  const int first = warp * steps, end = min(a.cols / kStep, first + steps);
  const uint16_t* upper = a.weights + (int64_t{blockIdx.x} * 16 + group) * a.cols + q * 8;
  const uint16_t* lower = upper + int64_t{8} * a.cols;
  const bool present = group < a.tokens;
  const float* x = a.x + group * a.x_stride + q * 8;
  float c[4] = {};
  for (int s = first; s < end; s += kUnroll) {
    uint4 w0[kUnroll], w1[kUnroll], b[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (s + u >= end) break;
      w0[u] = load_stream(upper + (s + u) * kStep);
      w1[u] = load_stream(lower + (s + u) * kStep);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (s + u >= end) break;
      b[u] = present ? load_rounded(x + (s + u) * kStep) : uint4{};
      multiply(c, w0[u], w1[u], b[u]);
    }
  }
  for (int i = 0; i < 4; ++i) parts[warp][2 * q + i % 2][group + i / 2 * 8] = c[i];
  __syncthreads();
  const int row = threadIdx.x % 16, token = threadIdx.x / 16;
  if (token >= a.tokens) return;
  float total = 0;
  for (int s = 0; s < kSplits; ++s) total = __fadd_rn(total, parts[s][token][row]);
  float& y = a.y[token * a.y_stride + int64_t{blockIdx.x} * 16 + row];
  y = a.accumulate ? __fadd_rn(y, total) : total;
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
#pragma unroll
      for (int n = 0; n < T::kTokenTiles; ++n) multiply(c[m][n], upper, lower, b[n]);
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
    few_tokens_kernel<<<static_cast<unsigned>(args.rows / 16), kThreads, 0, raw>>>(a);
    return launched("matmul");
  }
  const int64_t pieces = args.tokens * args.cols / 8;
  round_kernel<<<static_cast<unsigned>(std::min<int64_t>((pieces + 255) / 256, 132 * 8)), kThreads,
                 0, raw>>>(a, x16);
  HEDDLE_TRY_STATUS(launched("rounding the operand of matmul"));
  return args.tokens <= 64 ? many_tokens<1, 8, 32>(a, raw) : many_tokens<4, 2, 128>(a, raw);
}

}  // namespace heddle::ops::cuda
