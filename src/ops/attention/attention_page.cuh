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
  float scale, soft_cap, log2_scale;
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
  // Fragment i: keys 16 (i % 4) on, elements 16 (i / 4) on. Two are under way.
  constexpr int kFragments = kWidth / 16 * (kPage / 16);
  uint32_t b[3][4];
  load_columns(b[0], keys, 0, 0);
  load_columns(b[1], keys, 0, 2);
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
    if (i + 2 < kFragments) load_columns(b[(i + 2) % 3], keys, (i + 2) / 4 * 16, (i + 2) % 4 * 2);
    mma(s[i % 4 * 2], q.a[i / 4], b[i % 3][0], b[i % 3][1]);
    mma(s[i % 4 * 2 + 1], q.a[i / 4], b[i % 3][2], b[i % 3][3]);
  }
}

// Scores become probabilities relative to the new origin; the accumulator follows it. Origins are
// in units of `log2_scale` scores, the scale times log2(e), or of log2(e) behind a soft cap.
// `position`: of the two rows; a key at slot j is seen where position - window < j <= position.
// kMasked: whether some row of the warp does not see some key; that changes no bit of a row that
// sees all.
template <bool kMasked, int kColumns>
__device__ inline void page_softmax(const AttentionProblem& p, int first_key,
                                    const int (&position)[2], float (&s)[kPage / 8][4],
                                    Softmax<kColumns>& state) {
  const int key0 = first_key + 2 * (threadIdx.x % 4);
  float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < kPage / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (p.soft_cap > 0)
        s[n][i] = __fmul_rn(p.soft_cap, tanhf(__fdiv_rn(__fmul_rn(s[n][i], p.scale), p.soft_cap)));
      if (kMasked) {
        const int key = key0 + n * 8 + i % 2, at = position[i / 2];
        const bool seen = key <= at && (p.window == 0 || key > at - p.window);
        s[n][i] = seen ? s[n][i] : -INFINITY;
      }
      top[i / 2] = fmaxf(top[i / 2], s[n][i]);
    }
  }
  float base[2], scale[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int step = 1; step < 4; step *= 2)
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], step));
    const float origin = fmaxf(state.origin[r], __fmul_rn(top[r], p.log2_scale));
    base[r] = origin == -INFINITY ? 0 : origin;
    scale[r] = exp2_fast(__fsub_rn(state.origin[r], base[r]));
    state.origin[r] = origin;
  }
  // Times one is nothing to do.
  if (__any_sync(~0u, scale[0] != 1 || scale[1] != 1)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      state.sum[r] = __fmul_rn(state.sum[r], scale[r]);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
        for (int i = 0; i < 2; ++i)
          state.o[n][2 * r + i] = __fmul_rn(state.o[n][2 * r + i], scale[r]);
    }
  }
#pragma unroll
  for (int n = 0; n < kPage / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = exp2_fast(__fmaf_rn(s[n][i], p.log2_scale, -base[i / 2]));
      state.sum[i / 2] = __fadd_rn(state.sum[i / 2], s[n][i]);
    }
}

// The same for a warp whose rows stand at positions first .. last: masked where it must be.
template <int kColumns>
__device__ inline void page_probabilities(const AttentionProblem& p, int first_key, int first,
                                          int last, const int (&position)[2],
                                          float (&s)[kPage / 8][4], Softmax<kColumns>& state) {
  if (first_key + kPage - 1 <= first && (p.window == 0 || first_key > last - p.window))
    page_softmax<false>(p, first_key, position, s, state);
  else
    page_softmax<true>(p, first_key, position, s, state);
}

// Adds the values of a page, in bands of 64 columns: tiles of [64 slots][64].
template <int kColumns>
__device__ inline void page_values(const float (&s)[kPage / 8][4], const std::byte* values,
                                   Softmax<kColumns>& state) {
  // Fragment i: columns 16 (i % kAcross) on, keys 16 (i / kAcross) on. Two are under way.
  constexpr int kAcross = kColumns / 16, kFragments = kPage / 16 * kAcross;
  const auto load = [&](uint32_t(&r)[4], int i) {
    const int n = i % kAcross * 2;
    load_columns(r, values + n / 8 * (kPage * 128), i / kAcross * 16, n % 8);
  };
  uint32_t b[3][4], a[4];
  load(b[0], 0);
  load(b[1], 1);
#pragma unroll
  for (int i = 0; i < kFragments; ++i) {
    const int k = i / kAcross, n = i % kAcross * 2;
    if (i + 2 < kFragments) load(b[(i + 2) % 3], i + 2);
    if (n == 0) {
      a[0] = pack_bf16(s[2 * k][0], s[2 * k][1]);
      a[1] = pack_bf16(s[2 * k][2], s[2 * k][3]);
      a[2] = pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
      a[3] = pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
    }
    mma(state.o[n], a, b[i % 3][0], b[i % 3][1]);
    mma(state.o[n + 1], a, b[i % 3][2], b[i % 3][3]);
  }
}

}  // namespace heddle::ops::cuda
