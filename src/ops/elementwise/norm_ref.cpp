#include <cmath>

#include "ops/elementwise/norm.h"

namespace heddle::ops {

void ref::rms_norm(backend::Context&, const RmsNormArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t g = 0; g < args.groups; ++g) {
      const float* x = args.x + r * args.x_stride + g * args.width;
      float* y = args.y + r * args.y_stride + g * args.width;
      double squares = 0;
      for (int64_t i = 0; i < args.width; ++i) squares += static_cast<double>(x[i]) * x[i];
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(args.width) + args.eps);
      for (int64_t i = 0; i < args.width; ++i) {
        const double weight = args.weight == nullptr ? 1.0 : args.weight[i];
        y[i] = static_cast<float>(x[i] * inverse * weight);
      }
    }
  }
}

}  // namespace heddle::ops
