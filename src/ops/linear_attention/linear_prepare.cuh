#pragma once
// What of a chunk does not depend on the state, for all chunks at once: the products of keys and
// queries under their gates, the inverse of the unit triangular system in blocks of 16, decays.
//   A_ij = beta_i e^{G_i - G_j} k_i.k_j (i > j), P_ij = e^{G_i - G_j} q_i.k_j (i >= j), T = (I +
//   A_rr)^-1 for the diagonal blocks r
// One block of threads has a chunk and a key head, a warp of it 16 rows i. With a gate per channel
// the decay is inside the product: between blocks both sides are taken relative to the row before
// block r, so that no exponent is above 0; inside a block the products are summed in float32.
#include "ops/linear_attention/linear_device.cuh"

namespace heddle::ops::cuda::linear {

template <class R>
struct PrepareShared {
  __nv_bfloat16 k[kF * R::kPitch], q[kF * R::kPitch];
  // Base 2 logarithms of the decay since the boundary, a row each.
  static constexpr int kGatePitch = R::kChannel ? R::K + 8 : 1;
  alignas(16) float g[kF * kGatePitch];
  float beta[kF];
  // Of each warp's diagonal block: below the diagonal -A, then the inverse; from it on P
  // transposed.
  float inside[kBlocks][kBlock][kBlock + 1];
};

// C tiles of the products of rows 16 r .. with rows 16 s ..: k.k and q.k.
template <class R>
struct Products {
  float kk[2][4], qk[2][4];
};

template <class R>
class Prepare {
 public:
  __device__ Prepare(const Problem& p, PrepareShared<R>& shared)
      : p_(p),
        shared_(shared),
        chunk_(p.chunks[blockIdx.x / p.key_heads]),
        segment_(p.segments[chunk_.segment]),
        span_(segment_, chunk_.index) {}

  __device__ void run() {
    const int ratio = p_.value_heads / p_.key_heads;
    load_rows();
    head_ = key_head_ * ratio;
    load_gates();
    copies_wait();
    __syncthreads();
    sum_gates();
    keep_keys();
    Products<R> products[kBlocks];
    if constexpr (!R::kChannel) {
#pragma unroll
      for (int s = 0; s < kBlocks; ++s)
        if (s <= warp_) plain_products(s, products[s]);
    }
    for (int i = 0; i < ratio; ++i) {
      head_ = key_head_ * ratio + i;
      if (i > 0) {
        load_gates();
        __syncthreads();
        sum_gates();
      }
      __syncthreads();
      write_scalars();
      if (R::kChannel) {
        inside_block();
        between_blocks(products);
      }
#pragma unroll
      for (int s = 0; s < kBlocks; ++s)
        if (s < warp_)
          write_between(s, products[s]);
        else if (s == warp_ && !R::kChannel)
          gate_inside(products[s]);
      __syncwarp();
      write_inside();
      __syncthreads();
      // After every warp's reads of the records: the page may be the same.
      if (R::kDelta) keep_inverse();
    }
  }

 private:
  static constexpr int kGatePitch = PrepareShared<R>::kGatePitch;

  __device__ std::byte* coefficients() const {
    return p_.coefficients<R>(segment_.first_chunk + chunk_.index, head_);
  }
  __device__ void write_tile(int tile, uint32_t b0, uint32_t b1, uint32_t b2, uint32_t b3) const {
    reinterpret_cast<uint4*>(coefficients())[tile * 32 + lane_] = make_uint4(b0, b1, b2, b3);
  }

  // Rows of the step or records; zero behind the end.
  __device__ void load_rows() {
    const Records<R> open = p_.records<R>(segment_.open);
    const int key_head = key_head_;
    constexpr int kKeys = R::K / 8, kStep = kBlocks * 32 / kKeys;
    const int c = threadIdx.x % kKeys * 8;
#pragma unroll
    for (int slot = threadIdx.x / kKeys; slot < kF; slot += kStep) {
      const int64_t at = ((span_.row + slot) * p_.key_heads + key_head) * R::K + c;
      __nv_bfloat16 *k = shared_.k + slot * R::kPitch + c, *q = shared_.q + slot * R::kPitch + c;
      const bool record = slot < span_.from;
      if (slot < span_.to)
        copy16(k, record ? open.k(key_head, slot) + c : p_.k + at);
      else
        *reinterpret_cast<uint4*>(k) = make_uint4(0, 0, 0, 0);
      if (slot < span_.to && !record)
        copy16(q, p_.q + at);
      else
        *reinterpret_cast<uint4*>(q) = make_uint4(0, 0, 0, 0);
    }
  }
  // Keys that stay open become records.
  __device__ void keep_keys() const {
    if (!span_.stays_open()) return;
    const Records<R> next = p_.records<R>(segment_.next_open);
    constexpr int kKeys = R::K / 8;
    for (int i = threadIdx.x; i < span_.to * kKeys; i += blockDim.x) {
      const int slot = i / kKeys, c = i % kKeys * 8;
      *reinterpret_cast<uint4*>(next.k(key_head_, slot) + c) =
          *reinterpret_cast<const uint4*>(shared_.k + slot * R::kPitch + c);
    }
  }

  // The gates of the step's rows, and the sums up to records, as they are; beta.
  __device__ void load_gates() {
    const Records<R> open = p_.records<R>(segment_.open);
    if (threadIdx.x < kF) {
      const int slot = threadIdx.x;
      const bool record = slot < span_.from, fresh = !record && slot < span_.to;
      float beta = fresh ? 1.0f : 0.0f;
      if (fresh && p_.beta != nullptr) beta = p_.beta[(span_.row + slot) * p_.value_heads + head_];
      shared_.beta[slot] = beta;
      if (!R::kChannel)
        shared_.g[slot] = record  ? *open.decay(head_, slot)
                          : fresh ? p_.g[(span_.row + slot) * p_.g_stride + head_]
                                  : 0.0f;
    }
    if constexpr (R::kChannel) {
      constexpr int kQuads = R::K / 4, kStep = kBlocks * 32 / kQuads;
      const int c = threadIdx.x % kQuads * 4;
#pragma unroll
      for (int slot = threadIdx.x / kQuads; slot < kF; slot += kStep) {
        float* to = shared_.g + slot * kGatePitch + c;
        const float* from = p_.g + (span_.row + slot) * p_.g_stride + head_ * R::K + c;
        if (slot < span_.to)
          copy16(to, slot < span_.from ? open.decay(head_, slot) + c : from);
        else
          *reinterpret_cast<float4*>(to) = make_float4(0, 0, 0, 0);
      }
    }
  }
  // Sums along the chunk, row after row as decode adds them.
  __device__ void sum_gates() {
    const Records<R> next = p_.records<R>(segment_.next_open);
    for (int c = threadIdx.x; c < R::kGates; c += blockDim.x) {
      float sum = 0;
      constexpr int kAhead = 32;
      for (int from = 0; from < kF; from += kAhead) {
        float x[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) x[i] = shared_.g[(from + i) * kGatePitch + c];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          sum = from + i < span_.from ? x[i] : __fadd_rn(sum, __fmul_rn(kLog2e, x[i]));
          shared_.g[(from + i) * kGatePitch + c] = sum;
        }
      }
      if (span_.stays_open())
        for (int slot = 0; slot < span_.to; ++slot)
          next.decay(head_, slot)[c] = shared_.g[slot * kGatePitch + c];
    }
  }

  __device__ const float* gates(int slot) const { return shared_.g + slot * kGatePitch; }

  __device__ void write_scalars() const {
    float* scalars = reinterpret_cast<float*>(coefficients() + R::kScalars);
    const float* last = gates(kF - 1);
    for (int i = threadIdx.x; i < kF; i += blockDim.x) {
      scalars[R::kBeta + i] = shared_.beta[i];
      if (!R::kChannel) {
        scalars[R::kDecay + i] = exp2_fast(gates(i)[0]);
        scalars[R::kWeight + i] = exp2_fast(__fsub_rn(last[0], gates(i)[0]));
      }
    }
    for (int c = threadIdx.x; c < R::kGates; c += blockDim.x)
      scalars[R::kTotal + c] = exp2_fast(last[c]);
    if (!R::kChannel) return;
    uint4* rows = reinterpret_cast<uint4*>(coefficients() + R::kCoefficients);
    for (int i = threadIdx.x; i < kF * R::K / 8; i += blockDim.x) {
      const int slot = i / (R::K / 8), c = i % (R::K / 8) * 8, at = (slot * R::kPitch + c) / 8;
      const uint4 k = *reinterpret_cast<const uint4*>(shared_.k + slot * R::kPitch + c);
      const uint4 q = *reinterpret_cast<const uint4*>(shared_.q + slot * R::kPitch + c);
      const float* g = gates(slot) + c;
      uint32_t x[3][4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 y = *reinterpret_cast<const float2*>(g + 2 * e);
        const float2 z = *reinterpret_cast<const float2*>(last + c + 2 * e);
        x[0][e] = decayed(half_of(k, e), y.x, y.y);
        x[1][e] = decayed(half_of(q, e), y.x, y.y);
        x[2][e] = decayed(half_of(k, e), __fsub_rn(z.x, y.x), __fsub_rn(z.y, y.y));
      }
#pragma unroll
      for (int t = 0; t < 3; ++t)
        rows[t * (R::kRows / 16) + at] = make_uint4(x[t][0], x[t][1], x[t][2], x[t][3]);
    }
  }

  __device__ void plain_products(int s, Products<R>& x) const {
    const int r = warp_;
    x = {};
    const int a_row = lane_ % 16, a_column = lane_ / 16 * 8;
    const int b_row = lane_ / 16 * 8 + lane_ % 8, b_column = lane_ / 8 % 2 * 8;
#pragma unroll
    for (int c = 0; c < R::K; c += 16) {
      uint32_t k[4], q[4], b[4];
      load_matrices(k, shared_.k + (16 * r + a_row) * R::kPitch + c + a_column);
      load_matrices(q, shared_.q + (16 * r + a_row) * R::kPitch + c + a_column);
      load_matrices(b, shared_.k + (16 * s + b_row) * R::kPitch + c + b_column);
      mma(x.kk[0], k, b[0], b[1]);
      mma(x.kk[1], k, b[2], b[3]);
      mma(x.qk[0], q, b[0], b[1]);
      mma(x.qk[1], q, b[2], b[3]);
    }
  }

  // Rows i relative to the row before the block, rows j likewise.
  __device__ void between_blocks(Products<R> (&x)[kBlocks]) const {
    const int r = warp_, q = lane_ % 4, l = lane_ / 4;
    if (r == 0) return;
    const float* reference = gates(16 * r - 1);
#pragma unroll
    for (int s = 0; s < kBlocks; ++s) x[s] = {};
#pragma unroll 1
    for (int c = 0; c < R::K; c += 16) {
      uint32_t k[4], y[4];
      float2 ref[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = c + 2 * q + (i >= 2 ? 8 : 0), row = 16 * r + l + i % 2 * 8;
        ref[i / 2] = *reinterpret_cast<const float2*>(reference + at);
        const float2 g = *reinterpret_cast<const float2*>(gates(row) + at);
        const float low = __fsub_rn(g.x, ref[i / 2].x), high = __fsub_rn(g.y, ref[i / 2].y);
        k[i] = decayed(pair(shared_.k, row, at), low, high);
        y[i] = decayed(pair(shared_.q, row, at), low, high);
      }
#pragma unroll
      for (int s = 0; s < kBlocks - 1; ++s) {
        if (s >= r) continue;
        uint32_t b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = c + 2 * q + (i >= 2 ? 8 : 0), row = 16 * s + l + i % 2 * 8;
          const float2 h = *reinterpret_cast<const float2*>(gates(row) + at);
          b[i] = decayed(pair(shared_.k, row, at), __fsub_rn(ref[i / 2].x, h.x),
                         __fsub_rn(ref[i / 2].y, h.y));
        }
        mma(x[s].kk[0], k, b[0], b[2]);
        mma(x[s].kk[1], k, b[1], b[3]);
        mma(x[s].qk[0], y, b[0], b[2]);
        mma(x[s].qk[1], y, b[1], b[3]);
      }
    }
  }
  __device__ uint32_t pair(const __nv_bfloat16* rows, int row, int c) const {
    return *reinterpret_cast<const uint32_t*>(rows + row * R::kPitch + c);
  }

  // e^{G_i - G_j} of element e of C tile n of block s.
  __device__ float weight(int s, int n, int e) const {
    if (R::kChannel) return 1.0f;
    const int i = 16 * warp_ + lane_ / 4 + e / 2 * 8, j = 16 * s + 8 * n + 2 * (lane_ % 4) + e % 2;
    return exp2_fast(fminf(__fsub_rn(shared_.g[i], shared_.g[j]), 0.0f));
  }
  // The coefficient of u_j in row i of o, and in its right hand side.
  __device__ static float output_coefficient(float weight, float qk) {
    return __fmul_rn(weight, qk);
  }
  __device__ float side_coefficient(int i, float weight, float kk) const {
    return __fmul_rn(__fmul_rn(-shared_.beta[i], weight), kk);
  }

  __device__ void write_between(int s, const Products<R>& x) const {
    float a[2][4], p[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float w = weight(s, n, e);
        a[n][e] = side_coefficient(16 * warp_ + lane_ / 4 + e / 2 * 8, w, x.kk[n][e]);
        p[n][e] = output_coefficient(w, x.qk[n][e]);
      }
    // B fragments of the first 8 rows i are {tile 0, tile 1} of the C tiles' upper halves.
    write_tile(R::p_tile(warp_, s), pack_bf16(p[0][0], p[0][1]), pack_bf16(p[1][0], p[1][1]),
               pack_bf16(p[0][2], p[0][3]), pack_bf16(p[1][2], p[1][3]));
    if (R::kDelta)
      write_tile(R::a_tile(warp_, s), pack_bf16(a[0][0], a[0][1]), pack_bf16(a[1][0], a[1][1]),
                 pack_bf16(a[0][2], a[0][3]), pack_bf16(a[1][2], a[1][3]));
  }

  __device__ void gate_inside(const Products<R>& x) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = lane_ / 4 + e / 2 * 8, j = 8 * n + 2 * (lane_ % 4) + e % 2;
        const float w = weight(warp_, n, e);
        set_inside(i, j, w, x.kk[n][e], x.qk[n][e]);
      }
  }
  __device__ void set_inside(int i, int j, float weight, float kk, float qk) {
    if (j <= i) shared_.inside[warp_][j][i] = output_coefficient(weight, qk);
    if (j < i) shared_.inside[warp_][i][j] = side_coefficient(16 * warp_ + i, weight, kk);
  }

  // Lane l has channels 2 l, 2 l + 1 of every 64. k_j e^{G_i - G_j} is multiplied on from row to
  // row, which spares the exponentials; 32 sums over the lanes are formed at once, each lane ending
  // with one of them.
  __device__ void inside_block() {
    constexpr int kC = R::K / 32;
    const __nv_bfloat16* keys = shared_.k + 16 * warp_ * R::kPitch;
    const __nv_bfloat16* queries = shared_.q + 16 * warp_ * R::kPitch;
    float y[kBlock][kC], sums[32];
#pragma unroll 16
    for (int i = 0; i < kBlock; ++i) {
      float k[kC], q[kC];
      load_channels<R::K>(keys + i * R::kPitch, lane_, k);
      load_channels<R::K>(queries + i * R::kPitch, lane_, q);
      if (i > 0) {
        float decay[kC];
        channel_decay<R::K>(gates(16 * warp_ + i), gates(16 * warp_ + i - 1), lane_, decay);
#pragma unroll
        for (int j = 0; j < kBlock; ++j)
          if (j < i)
#pragma unroll
            for (int c = 0; c < kC; ++c) y[j][c] = __fmul_rn(y[j][c], decay[c]);
      }
#pragma unroll
      for (int c = 0; c < kC; ++c) y[i][c] = k[c];
#pragma unroll
      for (int j = 0; j < kBlock; ++j) {
        if (j > i) continue;
        const int pair = i * (i + 1) / 2 + j;
        sums[pair % 16 * 2] = dot_channels(k, y[j]);
        sums[pair % 16 * 2 + 1] = dot_channels(q, y[j]);
        if (pair % 16 == 15) spread(sums, pair / 16);
        if (pair == kBlock * (kBlock + 1) / 2 - 1) spread(sums, pair / 16);
      }
    }
  }
  // Of 2 D sums each of two lanes D apart keeps half.
  template <int D>
  __device__ __forceinline__ void halve(float (&sums)[32]) const {
    const bool upper = (lane_ & D) != 0;
#pragma unroll
    for (int x = 0; x < D; ++x) {
      const float keep = upper ? sums[x + D] : sums[x], give = upper ? sums[x] : sums[x + D];
      sums[x] = __fadd_rn(keep, __shfl_xor_sync(0xffffffffu, give, D));
    }
  }
  // Sum 2 p + w over the lanes goes to pair 16 `group` + p: of k (w = 0) or q.
  __device__ __forceinline__ void spread(float (&sums)[32], int group) {
    halve<16>(sums);
    halve<8>(sums);
    halve<4>(sums);
    halve<2>(sums);
    halve<1>(sums);
    const int pair = 16 * group + lane_ / 2;
    if (pair >= kBlock * (kBlock + 1) / 2) return;
    const int i = static_cast<int>((sqrtf(static_cast<float>(8 * pair + 1)) - 1.0f) * 0.5f);
    const int j = pair - i * (i + 1) / 2;
    if (lane_ % 2 == 0) {
      if (j < i) shared_.inside[warp_][i][j] = side_coefficient(16 * warp_ + i, 1.0f, sums[0]);
    } else {
      shared_.inside[warp_][j][i] = output_coefficient(1.0f, sums[0]);
    }
  }

  // Of the diagonal block: P, zero above the diagonal, and the inverse, one on it.
  __device__ float inside_output(int i, int j) const {
    return j <= i ? shared_.inside[warp_][j][i] : 0.0f;
  }
  __device__ float inside_inverse(int i, int j) const {
    return j < i ? shared_.inside[warp_][i][j] : j == i ? 1.0f : 0.0f;
  }

  // The inverse, and the diagonal blocks as B fragments.
  __device__ void write_inside() {
    const int i = lane_ / 4, j = 2 * (lane_ % 4);
    uint32_t p[4], high[4], low[4];
    if (R::kDelta) {
      invert();
      __syncwarp();
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int y = i + n / 2 * 8, x = j + n % 2 * 8;
      p[n] = pack_bf16(inside_output(y, x), inside_output(y, x + 1));
      if (!R::kDelta) continue;
      const float t0 = inside_inverse(y, x), t1 = inside_inverse(y, x + 1);
      high[n] = pack_bf16(t0, t1);
      low[n] = rest_bf16(t0, t1, high[n]);
    }
    write_tile(R::p_tile(warp_, warp_), p[0], p[1], p[2], p[3]);
    if (!R::kDelta) return;
    write_tile(R::t_tile(warp_, false), high[0], high[1], high[2], high[3]);
    write_tile(R::t_tile(warp_, true), low[0], low[1], low[2], low[3]);
  }

  // Lane c has column c; then the inverse takes the place of -A.
  __device__ void invert() {
    auto& a = shared_.inside[warp_];
    const int c = lane_ % 16, known = span_.from - 16 * warp_;
    const float* records =
        known > 0 && known < kBlock ? p_.records<R>(segment_.open).inverse(head_) : nullptr;
    float column[kBlock];
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      float x = i == c ? 1.0f : 0.0f;
#pragma unroll
      for (int j = 0; j < kBlock; ++j)
        if (j < i) x = __fmaf_rn(a[i][j], column[j], x);
      if (records != nullptr && i < known) x = records[i * kBlock + c];
      column[i] = x;
    }
    __syncwarp();
    if (lane_ < kBlock)
#pragma unroll
      for (int i = 0; i < kBlock; ++i)
        if (c < i) a[i][c] = column[i];
  }

  __device__ void keep_inverse() const {
    if (!span_.stays_open() || span_.to / kBlock != warp_) return;
    float* next = p_.records<R>(segment_.next_open).inverse(head_);
    for (int x = lane_; x < span_.to % kBlock * kBlock; x += 32)
      next[x] = inside_inverse(x / kBlock, x % kBlock);
  }

  const Problem& p_;
  PrepareShared<R>& shared_;
  const LinearChunk chunk_;
  const LinearSegment segment_;
  const Span span_;
  const int lane_ = threadIdx.x % 32, warp_ = threadIdx.x / 32;
  const int key_head_ = blockIdx.x % p_.key_heads;
  int head_ = 0;
};

// Grid (chunks HK), key heads innermost, so that blocks beside each other read what lies together;
// a warp for each block of rows.
template <class R>
__global__ __launch_bounds__(kBlocks * 32, R::kChannel ? 3 : 4) void prepare_kernel(
    const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) std::byte memory[];
  Prepare<R>(p, *reinterpret_cast<PrepareShared<R>*>(memory)).run();
}

}  // namespace heddle::ops::cuda::linear
