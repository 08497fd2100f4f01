#pragma once
// One warp, sixteen rows (query heads of tokens), one page: the arithmetic that prefill and decode
// share. Every float operation is named, so that no compiler contracts one of them differently.
#include <cuda_runtime.h>

#include "backend/cuda/copy_async.cuh"
#include "ops/attention/attention_cuda.h"

namespace heddle::ops::cuda {

using namespace backend::cuda;

constexpr int kPage = 64;
constexpr float kLog2e = 1.4426950408889634f;

// Row i of a tile: query head `i % group` of kv head g, of token `i / group`.
struct AttentionProblem {
  const std::byte* const* pages;
  int64_t key_at, value_at;
  const PagedSegment* segments;
  int heads, kv_heads, group;
  float scale, soft_cap;
  int window;
  const float* sinks;
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
  float* partial;  // decode: [segments][longest][H][splits][V + 2]
  int longest, splits;
};

// (origin, sum, accumulator) of rows lane / 4 and lane / 4 + 8. `sum` of a lane is of its own
// columns until finish_split(). Columns of the accumulator: 8 n + 2 (lane % 4) and the next.
template <int kColumns>
struct Softmax {
  float origin[2], sum[2];
  float o[kColumns / 8][4];

  __device__ void clear() {
    for (int r = 0; r < 2; ++r) origin[r] = -INFINITY, sum[r] = 0;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
      for (int i = 0; i < 4; ++i) o[n][i] = 0;
  }
  __device__ void finish_split() {
    for (int r = 0; r < 2; ++r)
      for (int step = 1; step < 4; step *= 2)
        sum[r] = __fadd_rn(sum[r], __shfl_xor_sync(~0u, sum[r], step));
  }
};

// What both accumulators are multiplied by to be relative to the larger origin.
struct Merge {
  float origin, old_scale, new_scale;
  __device__ Merge(float a, float b) {
    origin = fmaxf(a, b);
    const float base = origin == -INFINITY ? 0 : origin;
    old_scale = exp2_fast(__fsub_rn(a, base));
    new_scale = exp2_fast(__fsub_rn(b, base));
  }
  __device__ float of(float a, float b) const {
    return __fmaf_rn(b, new_scale, __fmul_rn(a, old_scale));
  }
};

// The sink's logit joins the sum alone; what is returned divides the accumulator.
__device__ inline float divisor(float origin, float sum, const float* sinks, int head,
                                float* scale) {
  *scale = 1;
  if (sinks == nullptr) return sum;
  const Merge merge(origin, __fmul_rn(sinks[head], kLog2e));
  *scale = merge.old_scale;
  return merge.of(sum, 1);
}

// Copies `rows` rows of 128 bytes to a swizzled tile; of every 64 those from `filled` on are zeros,
// whatever memory holds there.
template <int kThreads>
__device__ inline void fetch_tile(std::byte* tile, const std::byte* from, int rows,
                                  int filled = kPage) {
  for (int i = threadIdx.x; i < rows * 8; i += kThreads)
    copy16_or_zero(tile + swizzled(i / 8, i % 8), from + i * 16, i / 8 % kPage < filled);
}

// b0, b1 of columns [8 n, 8 n + 8) and of the next eight, of rows [row, row + 16) of a tile.
__device__ inline void load_columns(uint32_t (&r)[4], const std::byte* tile, int row, int piece) {
  const int lane = threadIdx.x % 32;
  load_matrices_transposed(r, tile + swizzled(row + lane % 16, piece + lane / 16));
}

// Rows of q as fragments of the first operand; rows from `rows` on are zero.
template <int kWidth>
struct Queries {
  uint32_t a[kWidth / 16][4];

  __device__ void load(const AttentionProblem& p, const PagedSegment& segment, int g, int tile_row,
                       int rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile_row + lane / 4 + half * 8;
      const bool valid = row < rows;
      const int64_t token = segment.row + (valid ? row / p.group : 0);
      const float* q = p.q + token * p.q_stride +
                       int64_t{g * p.group + (valid ? row % p.group : 0)} * kWidth + 2 * (lane % 4);
#pragma unroll
      for (int k = 0; k < kWidth / 8; ++k) {
        const float2 v = *reinterpret_cast<const float2*>(q + k * 8);
        a[k / 2][half + k % 2 * 2] = valid ? pack_bf16(v.x, v.y) : 0;
      }
    }
  }
};

// The scores of a page: s[n][i], key 8 n + 2 (lane % 4) + i % 2 of row lane / 4 + i / 2 * 8.
template <int kWidth>
__device__ inline void page_scores(const Queries<kWidth>& q, const std::byte* keys,
                                   float (&s)[kPage / 8][4]) {
#pragma unroll
  for (int n = 0; n < kPage / 8; ++n)
    for (int i = 0; i < 4; ++i) s[n][i] = 0;
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kPage / 8; n += 2) {
      uint32_t b[4];
      load_columns(b, keys, k * 16, n);
      mma(s[n], q.a[k], b[0], b[1]);
      mma(s[n + 1], q.a[k], b[2], b[3]);
    }
  }
}

// Scores become probabilities relative to the new origin; the accumulator follows it.
// `position`: of the two rows; a key at slot j is seen where position - window < j <= position.
template <int kColumns>
__device__ inline void page_softmax(const AttentionProblem& p, int first_key,
                                    const int (&position)[2], float (&s)[kPage / 8][4],
                                    Softmax<kColumns>& state) {
  const int key0 = first_key + 2 * (threadIdx.x % 4);
  float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < kPage / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float x = __fmul_rn(s[n][i], p.scale);
      if (p.soft_cap > 0) x = __fmul_rn(p.soft_cap, tanhf(__fdiv_rn(x, p.soft_cap)));
      const int key = key0 + n * 8 + i % 2, at = position[i / 2];
      const bool seen = key <= at && (p.window == 0 || key > at - p.window);
      s[n][i] = seen ? __fmul_rn(x, kLog2e) : -INFINITY;
      top[i / 2] = fmaxf(top[i / 2], s[n][i]);
    }
  }
  float base[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int step = 1; step < 4; step *= 2)
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], step));
    const float origin = fmaxf(state.origin[r], top[r]);
    base[r] = origin == -INFINITY ? 0 : origin;
    const float scale = exp2_fast(__fsub_rn(state.origin[r], base[r]));
    state.origin[r] = origin;
    state.sum[r] = __fmul_rn(state.sum[r], scale);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
      for (int i = 0; i < 2; ++i) state.o[n][2 * r + i] = __fmul_rn(state.o[n][2 * r + i], scale);
  }
#pragma unroll
  for (int n = 0; n < kPage / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = exp2_fast(__fsub_rn(s[n][i], base[i / 2]));
      state.sum[i / 2] = __fadd_rn(state.sum[i / 2], s[n][i]);
    }
}

// Adds the values of a page, in bands of 64 columns: tiles of [64 slots][64].
template <int kColumns>
__device__ inline void page_values(const float (&s)[kPage / 8][4], const std::byte* values,
                                   Softmax<kColumns>& state) {
#pragma unroll
  for (int k = 0; k < kPage / 16; ++k) {
    const uint32_t a[4] = {pack_bf16(s[2 * k][0], s[2 * k][1]), pack_bf16(s[2 * k][2], s[2 * k][3]),
                           pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]),
                           pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < kColumns / 8; n += 2) {
      uint32_t b[4];
      load_columns(b, values + n / 8 * (kPage * 128), k * 16, n % 8);
      mma(state.o[n], a, b[0], b[1]);
      mma(state.o[n + 1], a, b[2], b[3]);
    }
  }
}

}  // namespace heddle::ops::cuda
