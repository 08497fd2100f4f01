#include "ops/matmul/matmul.h"

namespace heddle::ops {

void matmul(backend::Context& ctx, const float* x, int64_t tokens, const PackedMatrix& weights,
            float* y) {
  const MatmulArgs args{.x = x,
                        .x_stride = weights.cols(),
                        .tokens = tokens,
                        .weights = &weights,
                        .y = y,
                        .y_stride = weights.rows()};
  ctx.reference() ? ref::matmul(ctx, args) : cpu::matmul(ctx, args);
}

}  // namespace heddle::ops
