#include "ops/matmul/matmul.h"

#include "base/check.h"

namespace heddle::ops {

void matmul(backend::Context& ctx, tensor::ConstRows x, const PackedMatrix& weights,
            tensor::Rows y) {
  HEDDLE_CHECK(x.rows == y.rows && x.width == weights.cols() && y.width == weights.rows(),
               "{} rows of {} times {} x {} into {} rows of {}", x.rows, x.width, weights.rows(),
               weights.cols(), y.rows, y.width);
  const MatmulArgs args{.x = x.f32(),
                        .x_stride = x.stride,
                        .tokens = x.rows,
                        .weights = &weights,
                        .y = y.f32(),
                        .y_stride = y.stride};
  ctx.reference() ? ref::matmul(ctx, args) : cpu::matmul(ctx, args);
}

}  // namespace heddle::ops
