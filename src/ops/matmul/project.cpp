#include "ops/matmul/project.h"

#include "backend/profile.h"
#include "ops/work.h"

namespace heddle::ops {

void project(backend::Context& ctx, const char* name, const float* x, int64_t tokens,
             const PackedMatrix& weights, float* y, int64_t y_stride) {
  const backend::ProfileScope part(ctx, name, [&] { return product_work(weights, tokens); });
  const MatmulArgs args{.x = x,
                        .x_stride = weights.cols(),
                        .tokens = tokens,
                        .weights = &weights,
                        .y = y,
                        .y_stride = y_stride == 0 ? weights.rows() : y_stride};
  ctx.reference() ? ref::matmul(ctx, args) : cpu::matmul(ctx, args);
}

}  // namespace heddle::ops
