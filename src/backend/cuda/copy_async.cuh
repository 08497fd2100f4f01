#pragma once
// Copies from global to shared memory that run beside the arithmetic, and tiles of 128-byte rows.
#include <cstdint>

#include "backend/cuda/mma.cuh"

namespace heddle::backend::cuda {

// 16 bytes; where `valid` is false, zeros, and nothing is read.
__device__ inline void copy16_or_zero(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
// Closes the group of the copies since the last one.
__device__ inline void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all of this thread's groups but the last kNewest are there.
template <int kNewest>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

// Where 16-byte piece `piece` (0 .. 7) of a row of 128 bytes lies: eight rows of one piece fall on
// different banks.
__device__ inline int swizzled(int row, int piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}

}  // namespace heddle::backend::cuda
