// The specification of matmul: float64 sums of the values that the stored weights stand for.
#include <vector>

#include "base/check.h"
#include "ops/matmul/matmul.h"

namespace heddle::ops {

void ref::matmul(backend::Context& ctx, const MatmulArgs& args) {
  const PackedMatrix& weights = *args.weights;
  const int64_t cols = weights.cols();
  ctx.pool.parallel_for(weights.rows(), 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> w(static_cast<size_t>(cols));
    for (int64_t row = begin; row < end; ++row) {
      weights.dequantize_row(row, w.data());
      for (int64_t t = 0; t < args.tokens; ++t) {
        const float* x = args.x + t * args.x_stride;
        double total = 0;
        for (int64_t k = 0; k < cols; ++k) total += static_cast<double>(x[k]) * w[k];
        float& y = args.y[t * args.y_stride + row];
        y = static_cast<float>(args.accumulate ? y + total : total);
      }
    }
  });
}

}  // namespace heddle::ops
