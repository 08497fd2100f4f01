#pragma once
// The walk over the chunks of a prompt, one after the other, and the fold that it shares with
// decode.
//   u^T = (beta V - beta e^G K S - A u)^T T^T;  o^T = (e^G Q S)^T + u^T P^T;  S^T <- e^{G_F} S^T +
//   u^T (e^{G_F - G} K)
// A warp owns 16 columns of V: it keeps S^T [16, K] as the accumulators of its fold, which,
// rounded, are the A operand of the reads; u^T likewise. So warps meet only at the tiles in shared
// memory (K, Q, coefficients), which the copy engine brings a chunk ahead. Nothing but a warp's own
// columns enters its arithmetic: a head may be split over blocks, which is how one sequence fills
// the chip. Floor of a chunk and head: 16 K and 16 V tiles of mma a token; bytes of q, k, v, o and
// coefficients.
#include "ops/linear_attention/linear_device.cuh"

namespace heddle::ops::cuda::linear {

// S^T of a strip: tile n holds channels 8 n ...
template <int K>
struct Strip {
  float s[K / 8][4];

  __device__ void load(const float* summary, int64_t strip, int lane) {
#pragma unroll
    for (int n = 0; n < K / 8; ++n) {
      float4 x = make_float4(0, 0, 0, 0);
      if (summary != nullptr)
        x = __ldcs(reinterpret_cast<const float4*>(summary) + (strip * (K / 8) + n) * 32 + lane);
      s[n][0] = x.x, s[n][1] = x.y, s[n][2] = x.z, s[n][3] = x.w;
    }
  }
  __device__ void store(float* summary, int64_t strip, int lane) const {
#pragma unroll
    for (int n = 0; n < K / 8; ++n)
      __stcs(reinterpret_cast<float4*>(summary) + (strip * (K / 8) + n) * 32 + lane,
             make_float4(s[n][0], s[n][1], s[n][2], s[n][3]));
  }
};

// S^T <- decay S^T + u^T k: u as A fragments, weighed; k rows in shared memory.
template <class R>
__device__ inline void fold_strip(Strip<R::K>& strip, const uint32_t (&u)[kBlocks][4],
                                  const __nv_bfloat16* k, const float* total, int lane) {
  const int q = lane % 4;
#pragma unroll
  for (int n = 0; n < R::K / 8; ++n) {
    const float a = R::kChannel ? total[8 * n + 2 * q] : total[0];
    const float b = R::kChannel ? total[8 * n + 2 * q + 1] : total[0];
    strip.s[n][0] = __fmul_rn(strip.s[n][0], a);
    strip.s[n][1] = __fmul_rn(strip.s[n][1], b);
    strip.s[n][2] = __fmul_rn(strip.s[n][2], a);
    strip.s[n][3] = __fmul_rn(strip.s[n][3], b);
  }
  const int row = lane / 8 % 2 * 8 + lane % 8, column = lane / 16 * 8;
#pragma unroll
  for (int s = 0; s < kBlocks; ++s)
#pragma unroll
    for (int n = 0; n < R::K / 8; n += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, k + (16 * s + row) * R::kPitch + 8 * n + column);
      mma(strip.s[n], u[s], b[0], b[1]);
      mma(strip.s[n + 1], u[s], b[2], b[3]);
    }
}

// u times e^{G_F - G}, in place.
__device__ inline void weigh_values(uint32_t (&u)[kBlocks][4], const float* weight, int lane) {
#pragma unroll
  for (int s = 0; s < kBlocks; ++s)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = 16 * s + 2 * (lane % 4) + (i >= 2 ? 8 : 0);
      u[s][i] = weigh(u[s][i], weight[j], weight[j + 1]);
    }
}

template <class R, int VS>
struct WalkStage {
  __nv_bfloat16 rows[R::kChannel ? 3 : 2][kF * R::kPitch];  // k, q, k for the fold
  __nv_bfloat16 v[kF * (VS + 8)];                           // then o
  alignas(16) std::byte coefficients[R::kCoefficients];

  __device__ const uint4& tile(int index, int lane) const {
    return reinterpret_cast<const uint4*>(coefficients)[index * 32 + lane];
  }
  __device__ const float* scalars(int at) const {
    return reinterpret_cast<const float*>(coefficients + R::kScalars) + at;
  }
  __device__ const __nv_bfloat16* fold_rows() const { return rows[R::kChannel ? 2 : 0]; }
};

template <class R, int VS, bool kPaired>
struct WalkShared {
  WalkStage<R, VS> stages[2];
  // Of each strip, as A fragments: S^T, then u^T. Only where warps are paired.
  uint4 handed[kPaired ? VS / 16 : 1][R::K / 16 + kBlocks][32];
  uint64_t arrived[2];
};

template <class R, int VS, bool kPaired>
class Walk {
 public:
  __device__ Walk(const Problem& p, WalkShared<R, VS, kPaired>& shared)
      : p_(p), shared_(shared), segment_(p.segments[blockIdx.z]) {}

  __device__ void run() {
    if (segment_.length == 0) return;
    const int chunks =
        static_cast<int>((segment_.start + segment_.length + kF - 1) / kF - segment_.start / kF);
    if (on_hopper() && threadIdx.x == 0) {
      barrier_init(&shared_.arrived[0], 1);
      barrier_init(&shared_.arrived[1], 1);
      if constexpr (on_hopper()) barrier_init_fence();
    }
    __syncthreads();
    fetch(0);
    if (!writer_) state_.load(segment_.summary, strip_, lane_);
    bool folded = false;
    for (int c = 0; c < chunks; ++c) {
      // This chunk's rows are here, and everybody has left the stage that the next one's go to.
      copies_wait();
      __syncthreads();
      if (c + 1 < chunks) fetch(c + 1);
      if constexpr (on_hopper()) barrier_wait(&shared_.arrived[c % 2], c / 2 % 2);
      const Span span(segment_, c);
      chunk(shared_.stages[c % 2], span);
      folded |= span.to == kF;
    }
    if (folded && !writer_ && segment_.next_summary != nullptr)
      state_.store(segment_.next_summary, strip_, lane_);
  }

 private:
  static constexpr int kVPitch = VS + 8, kThreads = VS * 2;

  // What lies together comes by the copy engine, rows by all threads: a bulk copy of a row costs
  // some 40 ns of the engine, which 192 rows a chunk have not.
  __device__ void fetch(int c) {
    if (kPaired && !writer_) return;
    const Span span(segment_, c);
    WalkStage<R, VS>& stage = shared_.stages[c % 2];
    const std::byte* from = p_.coefficients<R>(segment_.first_chunk + c, head_);
    if constexpr (on_hopper()) {
      if (thread_ == 0) {
        uint64_t* barrier = &shared_.arrived[c % 2];
        barrier_expect(barrier, R::kWorkspace);
        bulk_copy(stage.coefficients, from, R::kCoefficients, barrier);
        if (R::kChannel) bulk_copy(stage.rows, from + R::kCoefficients, 3 * R::kRows, barrier);
      }
    } else {
      for (int i = thread_ * 16; i < R::kCoefficients; i += kThreads * 16)
        copy16(stage.coefficients + i, from + i);
      if (R::kChannel)
        for (int i = thread_ * 16; i < 3 * R::kRows; i += kThreads * 16)
          copy16(reinterpret_cast<std::byte*>(stage.rows) + i, from + R::kCoefficients + i);
    }
    if (span.from == 0 && span.to == kF)
      fetch_rows<true>(stage, span);
    else
      fetch_rows<false>(stage, span);
  }

  // A thread copies the same 16 bytes of rows a fixed way apart.
  template <bool kWhole>
  __device__ void fetch_rows(WalkStage<R, VS>& stage, const Span& span) {
    constexpr int kValues = VS / 8, kKeys = R::K / 8;
    {
      constexpr int kStep = kThreads / kValues;
      const int x = thread_ % kValues * 8, first = thread_ / kValues;
      const int64_t pitch = int64_t{p_.value_heads} * R::V;
      const __nv_bfloat16* v =
          p_.v + (span.row + first) * pitch + head_ * R::V + blockIdx.x * VS + x;
      __nv_bfloat16* to = stage.v + first * kVPitch + x;
#pragma unroll
      for (int i = 0; i < kF / kStep; ++i, v += kStep * pitch) {
        const int slot = first + i * kStep;
        if (kWhole || (slot >= span.from && slot < span.to)) copy16(to + i * kStep * kVPitch, v);
      }
    }
    if constexpr (!R::kChannel) {
      constexpr int kStep = kThreads / kKeys;
      const int x = thread_ % kKeys * 8, first = thread_ / kKeys;
      const int key_head = p_.key_head(head_);
      const Records<R> open = p_.records<R>(segment_.open);
      const int64_t pitch = int64_t{p_.key_heads} * R::K;
      int64_t at = (span.row + first) * pitch + key_head * R::K + x;
      const int to = first * R::kPitch + x;
#pragma unroll
      for (int i = 0; i < kF / kStep; ++i, at += kStep * pitch) {
        const int slot = first + i * kStep;
        if (!kWhole && slot >= span.to) continue;
        const bool record = !kWhole && slot < span.from;
        copy16(stage.rows[0] + to + i * kStep * R::kPitch,
               record ? open.k(key_head, slot) + x : p_.k + at);
        if (!record) copy16(stage.rows[1] + to + i * kStep * R::kPitch, p_.q + at);
      }
    }
  }

  __device__ void chunk(WalkStage<R, VS>& stage, const Span& span) {
    uint32_t u[kBlocks][4];
    float o[kF / 8][4] = {};
    if (writer_) {
      handed_over(0);
      read_state<false, true>(stage, o, o);
      handed_over(1);
#pragma unroll
      for (int r = 0; r < kBlocks; ++r) to_array(shared_.handed[warp_][R::K / 16 + r][lane_], u[r]);
      outputs(stage, span, u, o);
      return;
    }
    float read[kF / 8][4] = {};
    if constexpr (kPaired) {
#pragma unroll
      for (int s = 0; s < R::K / 16; ++s) hand(s, operand(s));
      hand_over(0);
      read_state<R::kDelta, false>(stage, read, o);
    } else {
      read_state<R::kDelta, true>(stage, read, o);
    }
    values(stage, span, read, u);
    if constexpr (kPaired) {
#pragma unroll
      for (int r = 0; r < kBlocks; ++r)
        hand(R::K / 16 + r, make_uint4(u[r][0], u[r][1], u[r][2], u[r][3]));
      hand_over(1);
    } else {
      outputs(stage, span, u, o);
    }
    if (span.stays_open()) {
      const Records<R> next = p_.records<R>(segment_.next_open);
#pragma unroll
      for (int r = 0; r < kBlocks; ++r)
        *next.u(head_, local_strip(), r, lane_) = make_uint4(u[r][0], u[r][1], u[r][2], u[r][3]);
      return;
    }
    if (!R::kChannel) weigh_values(u, stage.scalars(R::kWeight), lane_);
    fold_strip<R>(state_, u, stage.fold_rows(), stage.scalars(R::kTotal), lane_);
  }

  // The two warps of a pair: what is handed over is in `handed`.
  __device__ void hand(int at, const uint4& x) { shared_.handed[warp_][at][lane_] = x; }
  __device__ void hand_over(int what) const {
    asm volatile("bar.arrive %0, 64;" ::"r"(1 + 2 * warp_ + what) : "memory");
  }
  __device__ void handed_over(int what) const {
    asm volatile("bar.sync %0, 64;" ::"r"(1 + 2 * warp_ + what) : "memory");
  }

  // Channels 16 s .. of S^T, rounded.
  __device__ uint4 operand(int s) const {
    uint32_t a[4];
    to_operand(state_.s[2 * s], state_.s[2 * s + 1], a);
    return make_uint4(a[0], a[1], a[2], a[3]);
  }

  // read = (K S)^T, o = (Q S)^T, undecayed.
  template <bool kKeys, bool kQueries>
  __device__ void read_state(const WalkStage<R, VS>& stage, float (&read)[kF / 8][4],
                             float (&o)[kF / 8][4]) {
    const int row = lane_ / 16 * 8 + lane_ % 8, column = lane_ / 8 % 2 * 8;
#pragma unroll
    for (int s = 0; s < R::K / 16; ++s) {
      uint32_t a[4];
      to_array(kPaired && kQueries ? shared_.handed[warp_][s][lane_] : operand(s), a);
#pragma unroll
      for (int n = 0; n < kF / 8; n += 2) {
        const int at = (8 * n + row) * R::kPitch + 16 * s + column;
        uint32_t b[4];
        if (kKeys) {
          load_matrices(b, stage.rows[0] + at);
          mma(read[n], a, b[0], b[1]);
          mma(read[n + 1], a, b[2], b[3]);
        }
        if (kQueries) {
          load_matrices(b, stage.rows[1] + at);
          mma(o[n], a, b[0], b[1]);
          mma(o[n + 1], a, b[2], b[3]);
        }
      }
    }
  }

  // v of a block of 16 rows as C tiles.
  __device__ void load_values(const WalkStage<R, VS>& stage, int r, float (&v)[2][4]) const {
    uint32_t x[4];
    load_matrices_transposed(x, stage.v + (16 * r + v_row()) * kVPitch + v_column());
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i / 2][i % 2 * 2] = low_bf16(x[i]);
      v[i / 2][i % 2 * 2 + 1] = high_bf16(x[i]);
    }
  }

  __device__ void values(const WalkStage<R, VS>& stage, const Span& span, float (&read)[kF / 8][4],
                         uint32_t (&u)[kBlocks][4]) {
    const float *beta = stage.scalars(R::kBeta), *decay = stage.scalars(R::kDecay);
    const Records<R> open = p_.records<R>(segment_.open);
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
      float v[2][4];
      load_values(stage, r, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int t = 16 * r + i / 4 * 8 + 2 * (lane_ % 4) + i % 2;
        float& x = read[2 * r + i / 4][i % 4];
        if (t < span.from || t >= span.to)
          x = 0;
        else if (R::kDelta)
          x = right_side(beta[t], R::kChannel ? 1.0f : decay[t], v[i / 4][i % 4], x);
        else
          x = __fmul_rn(beta[t], v[i / 4][i % 4]);
      }
      if constexpr (R::kDelta) {
        correct(stage, span, open, r, read, u);
      } else {
        to_operand(read[2 * r], read[2 * r + 1], u[r]);
      }
      if (16 * r < span.from && (!R::kDelta || 16 * r + 16 <= span.from))
        keep_records(u[r], *open.u(head_, local_strip(), r, lane_), lane_, span.from - 16 * r);
    }
  }

  // u of block r: what blocks before wrote is taken off, then the block's triangle is solved.
  __device__ void correct(const WalkStage<R, VS>& stage, const Span& span, const Records<R>& open,
                          int r, float (&read)[kF / 8][4], uint32_t (&u)[kBlocks][4]) {
    float(&c0)[4] = read[2 * r];
    float(&c1)[4] = read[2 * r + 1];
#pragma unroll
    for (int s = 0; s < r; ++s) {
      const uint4 a = stage.tile(R::a_tile(r, s), lane_);
      mma(c0, u[s], a.x, a.y);
      mma(c1, u[s], a.z, a.w);
    }
    uint32_t high[4], low[4];
    to_operand(c0, c1, high);
    low[0] = rest_bf16(c0[0], c0[1], high[0]);
    low[1] = rest_bf16(c0[2], c0[3], high[1]);
    low[2] = rest_bf16(c1[0], c1[1], high[2]);
    low[3] = rest_bf16(c1[2], c1[3], high[3]);
    const int before = span.from - 16 * r;
    if (before > 0 && before < kBlock) {
      keep_records(high, *open.side(head_, local_strip(), 0, lane_), lane_, before);
      keep_records(low, *open.side(head_, local_strip(), 1, lane_), lane_, before);
    }
    if (span.stays_open() && span.to / kBlock == r) {
      const Records<R> next = p_.records<R>(segment_.next_open);
      *next.side(head_, local_strip(), 0, lane_) = make_uint4(high[0], high[1], high[2], high[3]);
      *next.side(head_, local_strip(), 1, lane_) = make_uint4(low[0], low[1], low[2], low[3]);
    }
    const uint4 th = stage.tile(R::t_tile(r, false), lane_),
                tl = stage.tile(R::t_tile(r, true), lane_);
    float x0[4] = {}, x1[4] = {};
    solve(x0, high, low, th.x, th.y, tl.x, tl.y);
    solve(x1, high, low, th.z, th.w, tl.z, tl.w);
    to_operand(x0, x1, u[r]);
  }

  __device__ void outputs(WalkStage<R, VS>& stage, const Span& span,
                          const uint32_t (&u)[kBlocks][4], float (&o)[kF / 8][4]) {
    const float* decay = stage.scalars(R::kDecay);
    // v of this warp's columns has been read: o takes its place on the way out.
    __nv_bfloat16* out = stage.v;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
      float(&c0)[4] = o[2 * r];
      float(&c1)[4] = o[2 * r + 1];
      if (!R::kChannel) {
        const int t = 16 * r + 2 * (lane_ % 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          c0[i] = __fmul_rn(decay[t + i % 2], c0[i]);
          c1[i] = __fmul_rn(decay[t + 8 + i % 2], c1[i]);
        }
      }
#pragma unroll
      for (int s = 0; s <= r; ++s) {
        const uint4 b = stage.tile(R::p_tile(r, s), lane_);
        mma(c0, u[s], b.x, b.y);
        mma(c1, u[s], b.z, b.w);
      }
      uint32_t x[4];
      to_operand(c0, c1, x);
      store_matrices_transposed(x, out + 16 * r * kVPitch + 16 * warp_, kVPitch, lane_);
    }
    __syncwarp();
    const int half = lane_ % 2 * 8;
#pragma unroll
    for (int i = 0; i < kF / 16; ++i) {
      const int t = 16 * i + lane_ / 2;
      if (t < span.from || t >= span.to) continue;
      const uint4 x = *reinterpret_cast<const uint4*>(out + t * kVPitch + 16 * warp_ + half);
      __stcs(reinterpret_cast<uint4*>(p_.o + ((span.row + t) * p_.value_heads + head_) * R::V +
                                      16 * local_strip() + half),
             x);
    }
  }

  // The row and column of this lane's address for a 16 x 16 tile of v read transposed.
  __device__ int v_row() const { return lane_ / 16 * 8 + lane_ % 8; }
  __device__ int v_column() const { return 16 * warp_ + lane_ / 8 % 2 * 8; }
  __device__ int local_strip() const { return blockIdx.x * (VS / 16) + warp_; }

  const Problem& p_;
  WalkShared<R, VS, kPaired>& shared_;
  const LinearSegment segment_;
  const int lane_ = threadIdx.x % 32, warp_ = threadIdx.x / 32 % (VS / 16);
  const int thread_ = threadIdx.x % (VS * 2);                   // of those that copy
  const bool writer_ = kPaired && threadIdx.x / 32 >= VS / 16;  // the second warp of a pair
  const int head_ = blockIdx.y;
  const int64_t strip_ = int64_t{head_} * (R::V / 16) + local_strip();
  Strip<R::K> state_;
};

// Grid (V / VS, HV, segments), VS / 16 warps or as many pairs.
template <class R, int VS, bool kPaired>
__global__ __launch_bounds__(VS*(kPaired ? 4 : 2),
                             1) void walk_kernel(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) std::byte memory[];
  Walk<R, VS, kPaired>(p, *reinterpret_cast<WalkShared<R, VS, kPaired>*>(memory)).run();
}

// Grid (HV, segments), V / 16 warps: the fold of a full page of records.
template <class R>
__global__ __launch_bounds__(R::V * 2) void fold_kernel(const __grid_constant__ Problem p) {
  __shared__ alignas(16) __nv_bfloat16 k[kF * R::kPitch];
  __shared__ float weight[kF], total[R::kGates];
  const LinearSegment segment = p.segments[blockIdx.y];
  const int head = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t strip = int64_t{head} * (R::V / 16) + warp;
  const Records<R> open = p.records<R>(segment.open);
  Strip<R::K> state;
  state.load(segment.summary, strip, lane);
  uint32_t u[kBlocks][4];
#pragma unroll
  for (int s = 0; s < kBlocks; ++s) to_array(*open.u(head, warp, s, lane), u[s]);
  const float* last = open.decay(head, kF - 1);
  for (int i = threadIdx.x; i < kF * R::K / 2; i += blockDim.x) {
    const int slot = i / (R::K / 2), c = i % (R::K / 2) * 2;
    uint32_t x = *reinterpret_cast<const uint32_t*>(open.k(p.key_head(head), slot) + c);
    if (R::kChannel) {
      const float* g = open.decay(head, slot);
      x = decayed(x, __fsub_rn(last[c], g[c]), __fsub_rn(last[c + 1], g[c + 1]));
    }
    *reinterpret_cast<uint32_t*>(k + slot * R::kPitch + c) = x;
  }
  for (int i = threadIdx.x; i < R::kGates; i += blockDim.x) total[i] = exp2_fast(last[i]);
  if (!R::kChannel && threadIdx.x < kF)
    weight[threadIdx.x] = exp2_fast(__fsub_rn(last[0], *open.decay(head, threadIdx.x)));
  __syncthreads();
  if (!R::kChannel) weigh_values(u, weight, lane);
  fold_strip<R>(state, u, k, total, lane);
  state.store(segment.next_summary, strip, lane);
}

}  // namespace heddle::ops::cuda::linear
