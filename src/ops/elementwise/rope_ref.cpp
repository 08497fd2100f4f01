#include <cmath>

#include "ops/elementwise/rope.h"

namespace heddle::ops {

void ref::rope(backend::Context&, const RopeArgs& args) {
  const auto half = static_cast<int64_t>(args.rope->inv_freq.size());
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = args.positions[t] * args.rope->inv_freq[static_cast<size_t>(i)];
      const double c = std::cos(angle) * args.rope->scale;
      const double s = std::sin(angle) * args.rope->scale;
      for (int64_t h = 0; h < args.heads; ++h) {
        float* x = args.x + t * args.stride + h * args.width;
        const double a = x[i];
        const double b = x[i + half];
        x[i] = static_cast<float>(a * c - b * s);
        x[i + half] = static_cast<float>(b * c + a * s);
      }
    }
  }
}

}  // namespace heddle::ops
