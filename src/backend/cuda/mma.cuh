#pragma once
// The instructions of the tensor cores and of the copy engine that kernels share, one function
// each. Fragments are those of mma.m16n8k16 (lane l, q = l % 4): A row-major [16, 16]: {(l/4, 2q),
// (l/4 + 8, 2q), (l/4, 2q + 8), (l/4 + 8, 2q + 8)}, two neighbours in a register; B [16, 8]: {(2q,
// l/4), (2q + 8, l/4)}, pairs along the inner dimension; C [16, 8] float: {(l/4, 2q), (l/4, 2q +
// 1), (l/4
// + 8, 2q), (l/4 + 8, 2q + 1)}. So two neighbouring C tiles, rounded, are the A fragment of a next
// product.
#include <cuda_bf16.h>

#include <cstdint>

namespace heddle::backend::cuda {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// c += a b
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Whether the code is compiled for a GPU with Hopper's copy engine, barriers and stores of
// matrices.
__host__ __device__ constexpr bool on_hopper() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return false;
#else
  return true;
#endif
}

// What load_matrices_transposed reads at the rows of a 16 x 16 tile (matrices: the first 8 columns,
// the last 8, then of the last 8 rows), written there; rows `pitch` apart.
__device__ inline void store_matrices_transposed(const uint32_t (&r)[4], __nv_bfloat16* tile,
                                                 int pitch, int lane) {
  if constexpr (on_hopper()) {
    const int row = lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                     shared_address(tile + row * pitch + column)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
  } else {
    for (int i = 0; i < 4; ++i) {
      __nv_bfloat16* to = tile + (i / 2 * 8 + lane % 4 * 2) * pitch + i % 2 * 8 + lane / 4;
      to[0] = __ushort_as_bfloat16(static_cast<unsigned short>(r[i] & 0xffffu));
      to[pitch] = __ushort_as_bfloat16(static_cast<unsigned short>(r[i] >> 16));
    }
  }
}

// Rounded to nearest; `low` stands in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// 2^x by the special function unit: one instruction, hence the same bits in every kernel.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}
__device__ inline void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrives and announces bytes that copies will bring.
__device__ inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nwait:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra wait;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// Global to shared; sizes and addresses are multiples of 16 bytes.
__device__ inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// 16 bytes by each thread; complete after copies_wait and a barrier of the threads.
__device__ inline void copy16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ inline void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace heddle::backend::cuda
