#pragma once
// A product with weights as models use it: with the part of the step's profile that it is.
#include "backend/context.h"
#include "ops/matmul/matmul.h"

namespace heddle::ops {

// y [tokens, N] = x [tokens, K] W^T; x contiguous, rows of y y_stride apart (0: contiguous). name:
// a literal. Dispatches on ctx.kernels.
void project(backend::Context& ctx, const char* name, const float* x, int64_t tokens,
             const PackedMatrix& weights, float* y, int64_t y_stride = 0);

}  // namespace heddle::ops
