#pragma once
// Errors of the CUDA runtime as Status.
#include <cuda_runtime.h>

#include "base/result.h"

namespace heddle::backend::cuda {

// `what` was being done: "copying to the device".
inline Status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  return fail("GPU error while {}: {} ({})", what, cudaGetErrorString(error),
              cudaGetErrorName(error));
}

// What launching a kernel reported; what it did wrong while it ran comes with a later call.
inline Status launched(const char* kernel) { return status_of(cudaGetLastError(), kernel); }

}  // namespace heddle::backend::cuda
