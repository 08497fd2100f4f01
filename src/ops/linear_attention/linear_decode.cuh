#pragma once
// One row of every sequence: reads the summary and the records since it, writes o and a record.
// A block of threads has a sequence and a value head, a warp 16 columns of V; row i takes the place
// of a chunk's row in the products of the walk, with the same operands in the same order, so that
// its bits are a prompt's. Bound by bytes: the summary 4 K V, a record 2 K + 2 V (+ 4 K with a gate
// per channel); floor: these over the memory's rate.
#include "ops/linear_attention/linear_walk.cuh"

namespace heddle::ops::cuda::linear {

template <class R>
struct DecodeShared {
  alignas(16) __nv_bfloat16 k[kF * R::kPitch];  // records; row `slot` is the new one
  __nv_bfloat16 q[R::K];
  // With a gate per channel: relative to the boundary, and to the row before the block.
  __nv_bfloat16 read[2][R::K], relative[2][R::K];
  alignas(16) float g[kF * R::kGates];  // of the records and of the row
  float a[kF], p[kF];                   // coefficients of the row: -A and P
  alignas(16) float rows[kBlock][kBlock];
};

template <class R>
class Decode {
 public:
  __device__ Decode(const Problem& p, DecodeShared<R>& shared)
      : p_(p),
        shared_(shared),
        segment_(p.segments[blockIdx.y]),
        slot_(static_cast<int>(segment_.start % kF)),
        open_(p.records<R>(segment_.open)) {}

  // Everything that is read from memory is on its way before anything waits: what the row's
  // coefficients need first, the summary last.
  __device__ void run() {
    fetch_records();
    load_row();
    uint32_t u[kBlocks][4];
    load_values(u);
    Strip<R::K> state;
    state.load(segment_.summary, int64_t{head_} * kWarps + warp_, lane_);
    copies_wait();
    // Behind the copies, which bring whole quads.
    if (!R::kChannel) __syncthreads();
    if (threadIdx.x < R::kGates) shared_.g[slot_ * R::kGates + threadIdx.x] = row_gate_;
    __syncthreads();
    coefficients();
    __syncthreads();
    float c[4] = {};
    read_state(state, c);
    token(c, u);
  }

 private:
  static constexpr int kWarps = R::V / 16;

  __device__ int block() const { return slot_ / kBlock; }
  __device__ int row_in_block() const { return slot_ % kBlock; }

  __device__ const float* gates(int slot) const { return shared_.g + slot * R::kGates; }

  // u of the records, and right hand sides of the open block, as A fragments; zero where none is.
  __device__ void load_values(uint32_t (&u)[kBlocks][4]) {
    uint4 records[kBlocks], sides[2] = {};
#pragma unroll
    for (int s = 0; s < kBlocks; ++s)
      records[s] = 16 * s < slot_ ? *open_.u(head_, warp_, s, lane_) : make_uint4(0, 0, 0, 0);
    if (R::kDelta && row_in_block() > 0)
#pragma unroll
      for (int i = 0; i < 2; ++i) sides[i] = *open_.side(head_, warp_, i, lane_);
#pragma unroll
    for (int s = 0; s < kBlocks; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) u[s][i] = 0;
      keep_records(u[s], records[s], lane_, slot_ - 16 * s);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) high_[i] = low_[i] = 0;
    if (!R::kDelta) return;
    keep_records(high_, sides[0], lane_, row_in_block());
    keep_records(low_, sides[1], lane_, row_in_block());
  }

  // Keys, decays and the inverse's rows of the records.
  __device__ void fetch_records() {
    const int key_head = p_.key_head(head_);
    constexpr int kKeys = R::K / 8, kThreads = R::V * 2;
    for (int i = threadIdx.x; i < slot_ * kKeys; i += kThreads) {
      const int slot = i / kKeys, c = i % kKeys * 8;
      copy16(shared_.k + slot * R::kPitch + c, open_.k(key_head, slot) + c);
    }
    if (R::kDelta && static_cast<int>(threadIdx.x) < row_in_block() * kBlock / 4)
      copy16(&shared_.rows[0][0] + threadIdx.x * 4, open_.inverse(head_) + threadIdx.x * 4);
    // One float more than there are need not be whole quads: the page has room for all 64.
    for (int i = threadIdx.x * 4; i < slot_ * R::kGates; i += kThreads * 4)
      copy16(shared_.g + i, open_.decay(head_, 0) + i);
  }

  // The row's k, q, v, gates and strength.
  __device__ void load_row() {
    const int key_head = p_.key_head(head_);
    const int64_t at = (segment_.row * p_.key_heads + key_head) * R::K;
    if (threadIdx.x < R::K / 8) {
      const int c = threadIdx.x * 8;
      const uint4 k = *reinterpret_cast<const uint4*>(p_.k + at + c);
      *reinterpret_cast<uint4*>(shared_.q + c) = *reinterpret_cast<const uint4*>(p_.q + at + c);
      *reinterpret_cast<uint4*>(shared_.k + slot_ * R::kPitch + c) = k;
      if (head_ % (p_.value_heads / p_.key_heads) == 0)
        *reinterpret_cast<uint4*>(open_.k(key_head, slot_) + c) = k;
    }
    const float* g = p_.g + segment_.row * p_.g_stride + head_ * R::kGates;
    for (int c = threadIdx.x; c < R::kGates; c += blockDim.x) {
      const float before = slot_ == 0 ? 0.0f : open_.decay(head_, slot_ - 1)[c];
      const float sum = __fadd_rn(before, __fmul_rn(kLog2e, g[c]));
      open_.decay(head_, slot_)[c] = sum;
      row_gate_ = sum;
    }
    beta_ = p_.beta == nullptr ? 1.0f : p_.beta[segment_.row * p_.value_heads + head_];
    const __nv_bfloat16* v =
        p_.v + (segment_.row * p_.value_heads + head_) * R::V + 16 * warp_ + lane_ / 4;
    v_[0] = __bfloat162float(v[0]);
    v_[1] = __bfloat162float(v[8]);
  }

  // -A_ij and P_ij of the row, for every record and the row itself.
  __device__ void coefficients() {
    if constexpr (R::kChannel) {
      inside_block();
      relate_rows();
      __syncthreads();
    }
    const int from = R::kChannel ? 16 * block() : slot_ + 1;  // records that products meet
    for (int n = warp_; 8 * n < from; n += kWarps) {
      float c[4] = {};
      products(n, c);
      // Row 0 of the tile is k_i.k_j, row 1 q_i.k_j.
      if (lane_ >= 8) continue;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int j = 8 * n + 2 * (lane_ % 4) + e;
        if (j > slot_) continue;
        const float w =
            R::kChannel ? 1.0f : exp2_fast(fminf(__fsub_rn(shared_.g[slot_], shared_.g[j]), 0.0f));
        set(j, w, c[e], lane_ < 4);
      }
    }
  }
  __device__ void set(int j, float w, float product, bool keys) {
    if (keys)
      shared_.a[j] = __fmul_rn(__fmul_rn(-beta_, w), product);
    else
      shared_.p[j] = __fmul_rn(w, product);
  }

  __device__ void products(int n, float (&c)[4]) const {
    const int q = lane_ % 4, l = lane_ / 4;
    const __nv_bfloat16* row = nullptr;
    if (l == 0) row = R::kChannel ? shared_.relative[0] : shared_.k + slot_ * R::kPitch;
    if (l == 1) row = R::kChannel ? shared_.relative[1] : shared_.q;
#pragma unroll
    for (int at = 0; at < R::K; at += 16) {
      uint32_t a[4] = {0, 0, 0, 0};
      if (row != nullptr) {
        a[0] = *reinterpret_cast<const uint32_t*>(row + at + 2 * q);
        a[2] = *reinterpret_cast<const uint32_t*>(row + at + 2 * q + 8);
      }
      const __nv_bfloat16* other = shared_.k + (8 * n + l) * R::kPitch + at + 2 * q;
      mma(c, a, *reinterpret_cast<const uint32_t*>(other),
          *reinterpret_cast<const uint32_t*>(other + 8));
    }
  }

  // With a gate per channel: the rows of the open block, a warp for each record.
  __device__ void inside_block() {
    float k[R::K / 32], q[R::K / 32];
    load_channels<R::K>(shared_.k + slot_ * R::kPitch, lane_, k);
    load_channels<R::K>(shared_.q, lane_, q);
    for (int j = 16 * block() + warp_; j <= slot_; j += kWarps) {
      float y[R::K / 32];
      load_channels<R::K>(shared_.k + j * R::kPitch, lane_, y);
#pragma unroll 5
      for (int m = j + 1; m <= slot_; ++m) {
        float decay[R::K / 32];
        channel_decay<R::K>(gates(m), gates(m - 1), lane_, decay);
#pragma unroll
        for (int c = 0; c < R::K / 32; ++c) y[c] = __fmul_rn(y[c], decay[c]);
      }
      const float kk = sum_lanes(dot_channels(k, y));
      const float qk = sum_lanes(dot_channels(q, y));
      if (lane_ < 2) set(j, 1.0f, lane_ == 0 ? kk : qk, lane_ == 0);
    }
  }

  // e^G k and e^G q; and, relative to the row before the block, these and the records before it.
  __device__ void relate_rows() {
    const float* reference = block() > 0 ? gates(16 * block() - 1) : nullptr;
    const __nv_bfloat16* rows[2] = {shared_.k + slot_ * R::kPitch, shared_.q};
    for (int i = threadIdx.x; i < R::K; i += blockDim.x) {
      const int c = i % (R::K / 2) * 2, which = i / (R::K / 2);
      const uint32_t x = *reinterpret_cast<const uint32_t*>(rows[which] + c);
      const float g0 = gates(slot_)[c], g1 = gates(slot_)[c + 1];
      *reinterpret_cast<uint32_t*>(shared_.read[which] + c) = decayed(x, g0, g1);
      if (reference != nullptr)
        *reinterpret_cast<uint32_t*>(shared_.relative[which] + c) =
            decayed(x, __fsub_rn(g0, reference[c]), __fsub_rn(g1, reference[c + 1]));
    }
#pragma unroll 4
    for (int i = threadIdx.x; i < 16 * block() * R::K / 2; i += R::V * 2) {
      const int j = i / (R::K / 2), c = i % (R::K / 2) * 2;
      uint32_t* x = reinterpret_cast<uint32_t*>(shared_.k + j * R::kPitch + c);
      const float2 g = *reinterpret_cast<const float2*>(gates(j) + c);
      *x = decayed(*x, __fsub_rn(reference[c], g.x), __fsub_rn(reference[c + 1], g.y));
    }
  }

  // Column 0: S^T k_i, column 1: S^T q_i, undecayed (with a gate per channel e^G is in k and q).
  __device__ void read_state(const Strip<R::K>& state, float (&c)[4]) const {
    const int q = lane_ % 4, l = lane_ / 4;
    const __nv_bfloat16* row = nullptr;
    if (l == 0 && R::kDelta) row = R::kChannel ? shared_.read[0] : shared_.k + slot_ * R::kPitch;
    if (l == 1) row = R::kChannel ? shared_.read[1] : shared_.q;
#pragma unroll
    for (int s = 0; s < R::K / 16; ++s) {
      uint32_t a[4], b[2] = {0, 0};
      to_operand(state.s[2 * s], state.s[2 * s + 1], a);
      if (row != nullptr) {
        b[0] = *reinterpret_cast<const uint32_t*>(row + 16 * s + 2 * q);
        b[1] = *reinterpret_cast<const uint32_t*>(row + 16 * s + 2 * q + 8);
      }
      mma(c, a, b[0], b[1]);
    }
  }

  // Pairs (j, j + 1) of a row of coefficients as the B fragment of column `column`.
  __device__ uint32_t coefficient(const float* x, int j) const {
    const float low = j <= slot_ ? x[j] : 0.0f, high = j + 1 <= slot_ ? x[j + 1] : 0.0f;
    return pack_bf16(low, high);
  }

  __device__ void token(float (&c)[4], uint32_t (&u)[kBlocks][4]) {
    const int q = lane_ % 4, l = lane_ / 4, r = block(), ib = row_in_block();
    const float decay = R::kChannel ? 1.0f : exp2_fast(shared_.g[slot_]);
    if (q == 0) {
      if (R::kDelta) {
        c[0] = right_side(beta_, decay, v_[0], c[0]);
        c[2] = right_side(beta_, decay, v_[1], c[2]);
      } else {
        c[0] = __fmul_rn(beta_, v_[0]);
        c[2] = __fmul_rn(beta_, v_[1]);
      }
      if (!R::kChannel) {
        c[1] = __fmul_rn(decay, c[1]);
        c[3] = __fmul_rn(decay, c[3]);
      }
    }
#pragma unroll
    for (int s = 0; s < kBlocks; ++s) {
      if (s >= r) continue;
      const float* x = l == 1 ? shared_.p : shared_.a;
      uint32_t b[2] = {0, 0};
      if (l == 1 || (l == 0 && R::kDelta)) {
        b[0] = coefficient(x, 16 * s + 2 * q);
        b[1] = coefficient(x, 16 * s + 2 * q + 8);
      }
      mma(c, u[s], b[0], b[1]);
    }
    // Columns 0 and 1 of rows l, l + 8 are in lane 4 l: u of the row goes to the lane of its pair.
    float side0 = __shfl_sync(0xffffffffu, c[0], lane_ & ~3);
    float side1 = __shfl_sync(0xffffffffu, c[2], lane_ & ~3);
    if constexpr (R::kDelta) correct(side0, side1);
    const bool mine = ib % 8 / 2 == q;
    const float value[2] = {side0, side1};
    uint32_t last[4];
#pragma unroll
    for (int s = 0; s < kBlocks; ++s)
      if (s == r)
#pragma unroll
        for (int i = 0; i < 4; ++i) last[i] = u[s][i];
    if (mine) insert(last, value[0], value[1], ib);
    if (mine) {
      __nv_bfloat16* record = reinterpret_cast<__nv_bfloat16*>(open_.u(head_, warp_, r, lane_));
      record[ib / 8 * 4 + ib % 2] = __float2bfloat16_rn(value[0]);
      record[ib / 8 * 4 + 2 + ib % 2] = __float2bfloat16_rn(value[1]);
    }
    const uint32_t b0 = l == 1 ? coefficient(shared_.p, 16 * r + 2 * q) : 0;
    const uint32_t b1 = l == 1 ? coefficient(shared_.p, 16 * r + 2 * q + 8) : 0;
    mma(c, last, b0, b1);
    if (q == 0) {
      __nv_bfloat16* o = p_.o + (segment_.row * p_.value_heads + head_) * R::V + 16 * warp_ + l;
      o[0] = __float2bfloat16_rn(c[1]);
      o[8] = __float2bfloat16_rn(c[3]);
    }
  }

  // Puts the values of row ib of a block, of columns l and l + 8, into an A fragment.
  __device__ static void insert(uint32_t (&a)[4], float x0, float x1, int ib) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i / 2 != ib / 8) continue;
      const float x = i % 2 == 0 ? x0 : x1;
      const uint32_t bits = pack_bf16(x, x);
      a[i] = ib % 2 == 0 ? (a[i] & 0xffff0000u) | (bits & 0xffffu)
                         : (a[i] & 0xffffu) | (bits & 0xffff0000u);
    }
  }

  // Right hand sides of the row (columns l and l + 8) -> u.
  __device__ void correct(float& side0, float& side1) {
    const int q = lane_ % 4, l = lane_ / 4, r = block(), ib = row_in_block();
    if (ib % 8 / 2 == q) {
      insert(high_, side0, side1, ib);
      const float h0 = __bfloat162float(__float2bfloat16_rn(side0));
      const float h1 = __bfloat162float(__float2bfloat16_rn(side1));
      insert(low_, __fsub_rn(side0, h0), __fsub_rn(side1, h1), ib);
      *open_.side(head_, warp_, 0, lane_) = make_uint4(high_[0], high_[1], high_[2], high_[3]);
      *open_.side(head_, warp_, 1, lane_) = make_uint4(low_[0], low_[1], low_[2], low_[3]);
    }
    // The row of the inverse: lane c has column c.
    const float t = inverse_row(shared_.a + 16 * r, &shared_.rows[0][0], kBlock, ib, lane_ % 16);
    if (warp_ == 0 && lane_ < kBlock) open_.inverse(head_)[ib * kBlock + lane_] = t;
    uint32_t th[2], tl[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float x = __shfl_sync(0xffffffffu, t, 2 * q + 8 * i);
      const float y = __shfl_sync(0xffffffffu, t, 2 * q + 1 + 8 * i);
      th[i] = pack_bf16(x, y);
      tl[i] = rest_bf16(x, y, th[i]);
      if (l != 0) th[i] = tl[i] = 0;
    }
    float c[4] = {};
    solve(c, high_, low_, th[0], th[1], tl[0], tl[1]);
    side0 = __shfl_sync(0xffffffffu, c[0], lane_ & ~3);
    side1 = __shfl_sync(0xffffffffu, c[2], lane_ & ~3);
  }

  const Problem& p_;
  DecodeShared<R>& shared_;
  const LinearSegment segment_;
  const int slot_;
  const Records<R> open_;
  const int lane_ = threadIdx.x % 32, warp_ = threadIdx.x / 32;
  const int head_ = blockIdx.x;
  float beta_ = 1.0f, row_gate_ = 0.0f, v_[2] = {};
  uint32_t high_[4], low_[4];  // right hand sides of the open block
};

// Grid (HV, segments), V / 16 warps.
template <class R>
__global__ __launch_bounds__(R::V * 2, R::V == 128 ? 2 : 4) void decode_kernel(
    const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) std::byte memory[];
  Decode<R>(p, *reinterpret_cast<DecodeShared<R>*>(memory)).run();
}

}  // namespace heddle::ops::cuda::linear
