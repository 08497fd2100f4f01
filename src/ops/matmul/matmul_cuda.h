#pragma once
// Matrix products on a GPU: y = x W^T with W in bf16, on the tensor cores. x is rounded to bf16,
// sums are float32. One row's bits depend neither on the number of rows nor on which of the kernels
// runs: K is cut into kMatmulSplits pieces, each a chain of the same instructions over the same 16
// columns, and the pieces are added in order. All pointers are device memory.
#include <cstddef>
#include <cstdint>

#include "backend/cuda/stream.h"

namespace heddle::ops::cuda {

using backend::cuda::Stream;

constexpr int64_t kMatmulSplits = 8;
// Up to so many rows weights are read past the shared memory, as fast as memory brings them.
constexpr int64_t kMatmulFewTokens = 8;

struct MatmulBf16Args {
  const float* x = nullptr;  // [T, K], row stride x_stride, a multiple of 4
  int64_t x_stride = 0;
  int64_t tokens = 0;                 // T
  const uint16_t* weights = nullptr;  // [N, K] bf16
  int64_t rows = 0;                   // N, a multiple of 16
  int64_t cols = 0;                   // K, a multiple of 32
  float* y = nullptr;                 // [T, N], row stride y_stride
  int64_t y_stride = 0;
  bool accumulate = false;         // y += instead of y =
  std::byte* workspace = nullptr;  // matmul_workspace_bytes(T, K); x in bf16
};
inline int64_t matmul_workspace_bytes(int64_t tokens, int64_t cols) {
  return tokens <= kMatmulFewTokens ? 0 : tokens * cols * 2;
}
Status matmul_bf16(const Stream& stream, const MatmulBf16Args& args);

}  // namespace heddle::ops::cuda
