#pragma once
// What the kernels of linear attention share: rules as types, where things stand in the workspace,
// and the few operations whose bits must be those of every kernel.
#include "backend/cuda/mma.cuh"
#include "ops/linear_attention/linear_attention_cuda.h"

namespace heddle::ops::cuda::linear {

using namespace heddle::backend::cuda;  // NOLINT: device helpers

constexpr int kF = static_cast<int>(kLinearFold);
constexpr int kBlock = static_cast<int>(kLinearBlock);
constexpr int kBlocks = kF / kBlock;
constexpr float kLog2e = 1.44269504088896341f;

template <int K_, int V_, bool Delta_, bool Channel_>
struct Rule {
  static constexpr int K = K_, V = V_;
  static constexpr bool kDelta = Delta_, kChannel = Channel_;
  static constexpr int kGates = kChannel ? K : 1;
  static constexpr int kPitch = K + 8;  // bf16 of a row in shared memory: no bank conflicts

  // Workspace of a chunk and value head: blocks of coefficients as B fragments (16 x 16, lane l's 8
  // bf16 together), then scalars.
  //   P(r, s), s <= r: what row i of o takes of u_j. Delta: -A(r, s), s < r; T(r) high, low.
  static constexpr int kP = 0;
  static constexpr int kA = 10;
  static constexpr int kT = 16;
  static constexpr int kTiles = kDelta ? 24 : 10;
  static constexpr int kScalars = kTiles * 512;
  // Scalars, float: [64] beta, [64] e^G and [64] e^{G_F - G} with a gate per head, then the decay
  // of the chunk [kGates].
  static constexpr int kBeta = 0, kDecay = 64, kWeight = 128, kTotal = kChannel ? 64 : 192;
  static constexpr int kCoefficients = kScalars + 1024;
  // With a gate per channel also e^G k, e^G q and e^{G_F - G} k, bf16 [64][kPitch].
  static constexpr int kRows = kF * kPitch * 2;
  static constexpr int kWorkspace = kCoefficients + (kChannel ? 3 * kRows : 0);

  __device__ static constexpr int p_tile(int r, int s) { return kP + r * (r + 1) / 2 + s; }
  __device__ static constexpr int a_tile(int r, int s) { return kA + r * (r - 1) / 2 + s; }
  __device__ static constexpr int t_tile(int r, bool low) { return kT + 2 * r + (low ? 1 : 0); }
};

// A segment's open page, typed.
template <class R>
struct Records {
  std::byte* base;
  int64_t key_heads, value_heads;

  __device__ __nv_bfloat16* k(int64_t key_head, int slot) const {
    return reinterpret_cast<__nv_bfloat16*>(base) + (key_head * kF + slot) * R::K;
  }
  __device__ std::byte* values() const { return base + key_heads * kF * R::K * 2; }
  // The lane's 8 values of u of a strip of 16 columns and a block of 16 rows.
  __device__ uint4* u(int64_t head, int strip, int block, int lane) const {
    return reinterpret_cast<uint4*>(values()) +
           ((head * (R::V / 16) + strip) * kBlocks + block) * 32 + lane;
  }
  __device__ std::byte* decays() const { return values() + value_heads * kF * R::V * 2; }
  __device__ float* decay(int64_t head, int slot) const {
    return reinterpret_cast<float*>(decays()) + (head * kF + slot) * R::kGates;
  }
  __device__ std::byte* sides() const { return decays() + value_heads * kF * R::kGates * 4; }
  __device__ uint4* side(int64_t head, int strip, int low, int lane) const {
    return reinterpret_cast<uint4*>(sides()) + ((head * (R::V / 16) + strip) * 2 + low) * 32 + lane;
  }
  __device__ float* inverse(int64_t head) const {
    return reinterpret_cast<float*>(sides() + value_heads * kBlock * R::V * 4) +
           head * kBlock * kBlock;
  }
};

struct Problem {
  const __nv_bfloat16 *q, *k, *v;
  const float *g, *beta;
  int64_t g_stride;
  __nv_bfloat16* o;
  const LinearSegment* segments;
  const LinearChunk* chunks;
  std::byte* workspace;
  int key_heads, value_heads;

  __device__ int key_head(int value_head) const { return value_head / (value_heads / key_heads); }
  template <class R>
  __device__ Records<R> records(std::byte* open) const {
    return {open, key_heads, value_heads};
  }
  template <class R>
  __device__ std::byte* coefficients(int64_t chunk, int head) const {
    return workspace + (chunk * value_heads + head) * R::kWorkspace;
  }
};

// The slots of a chunk: [from, to) are rows of the step, those before `from` are records.
struct Span {
  int from, to;
  int64_t row;  // of slot 0; may lie before the segment's
  bool first, last;

  __device__ Span(const LinearSegment& s, int index) {
    const int64_t base = (s.start / kF + index) * kF;
    first = index == 0;
    from = first ? static_cast<int>(s.start - base) : 0;
    const int64_t left = s.start + s.length - base;
    last = left <= kF;
    to = last ? static_cast<int>(left) : kF;
    row = s.row + base - s.start;
  }
  // Whether the chunk's records outlive the step.
  __device__ bool stays_open() const { return to < kF; }
};

__device__ inline uint32_t half_of(const uint4& f, int i) {
  return i == 0 ? f.x : i == 1 ? f.y : i == 2 ? f.z : f.w;
}
__device__ inline void to_array(const uint4& f, uint32_t (&a)[4]) {
  a[0] = f.x, a[1] = f.y, a[2] = f.z, a[3] = f.w;
}

// Two C tiles as the A fragment of the next product.
__device__ inline void to_operand(const float (&c0)[4], const float (&c1)[4], uint32_t (&a)[4]) {
  a[0] = pack_bf16(c0[0], c0[1]);
  a[1] = pack_bf16(c0[2], c0[3]);
  a[2] = pack_bf16(c1[0], c1[1]);
  a[3] = pack_bf16(c1[2], c1[3]);
}
// What rounding left of x, rounded.
__device__ inline uint32_t rest_bf16(float low, float high, uint32_t rounded) {
  return pack_bf16(__fsub_rn(low, low_bf16(rounded)), __fsub_rn(high, high_bf16(rounded)));
}

// The right hand side of row i: beta v - beta e^G S^T k; with a gate per channel e^G is in k.
__device__ inline float right_side(float beta, float decay, float v, float read) {
  return __fmaf_rn(-__fmul_rn(beta, decay), read, __fmul_rn(beta, v));
}

// In place of a lane's pair of rows those of the other fragment where they are records. Register r
// of an A fragment of u^T holds rows 2q, 2q + 1 (r < 2) or 8 further.
__device__ inline void keep_records(uint32_t (&a)[4], const uint4& records, int lane, int before) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int j = 2 * (lane % 4) + (i >= 2 ? 8 : 0);
    const uint32_t old = half_of(records, i);
    if (j < before) a[i] = (a[i] & 0xffff0000u) | (old & 0xffffu);
    if (j + 1 < before) a[i] = (a[i] & 0xffffu) | (old & 0xffff0000u);
  }
}

// u += T r with both split into two bf16: rows of T as B fragments.
__device__ inline void solve(float (&c)[4], const uint32_t (&high)[4], const uint32_t (&low)[4],
                             uint32_t th0, uint32_t th1, uint32_t tl0, uint32_t tl1) {
  mma(c, high, tl0, tl1);
  mma(c, low, th0, th1);
  mma(c, high, th0, th1);
}

// Row i of (I + A)^-1 of a block, column c, of the rows before it: `a` holds -A_ij.
__device__ inline float inverse_row(const float* a, const float* rows, int pitch, int i, int c) {
  float t = i == c ? 1.0f : 0.0f;
  for (int j = 0; j < i; ++j) t = __fmaf_rn(a[j], rows[j * pitch + c], t);
  return t;
}

// Weights of a fold with a gate per head: u times e^{G_F - G}.
__device__ inline uint32_t weigh(uint32_t pair, float low, float high) {
  return pack_bf16(__fmul_rn(low_bf16(pair), low), __fmul_rn(high_bf16(pair), high));
}

// k or q decayed by a channel's gate, in two neighbouring channels.
__device__ inline uint32_t decayed(uint32_t pair, float low, float high) {
  return pack_bf16(__fmul_rn(low_bf16(pair), exp2_fast(low)),
                   __fmul_rn(high_bf16(pair), exp2_fast(high)));
}

// A lane's channels of a row with a gate per channel: 2 l, 2 l + 1 of every 64.
template <int K>
__device__ inline void load_channels(const __nv_bfloat16* row, int lane, float (&x)[K / 32]) {
#pragma unroll
  for (int i = 0; i < K / 64; ++i) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(row + 64 * i + 2 * lane);
    x[2 * i] = low_bf16(pair);
    x[2 * i + 1] = high_bf16(pair);
  }
}
// The decay from one row to the next.
template <int K>
__device__ inline void channel_decay(const float* g, const float* before, int lane,
                                     float (&x)[K / 32]) {
#pragma unroll
  for (int i = 0; i < K / 64; ++i) {
    const int c = 64 * i + 2 * lane;
    const float2 a = *reinterpret_cast<const float2*>(g + c);
    const float2 b = *reinterpret_cast<const float2*>(before + c);
    x[2 * i] = exp2_fast(__fsub_rn(a.x, b.x));
    x[2 * i + 1] = exp2_fast(__fsub_rn(a.y, b.y));
  }
}
template <int N>
__device__ inline float dot_channels(const float (&x)[N], const float (&y)[N]) {
  float sum = __fmul_rn(x[0], y[0]);
#pragma unroll
  for (int c = 1; c < N; ++c) sum = __fmaf_rn(x[c], y[c], sum);
  return sum;
}
// The sum over all lanes in one fixed tree: lanes 16 apart first.
__device__ inline float sum_lanes(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, d));
  return x;
}

}  // namespace heddle::ops::cuda::linear
