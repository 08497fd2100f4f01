#pragma once
// Root-mean-square normalisation: y = x / sqrt(mean(x^2) + eps) * w. Statistics in float32
// (reference: float64).
#include <cstdint>

#include "backend/context.h"

namespace heddle::ops {

// `rows` rows of `groups` vectors of `width` values each, every vector normalised by itself (heads
// of a token). Row r is at x + r * x_stride and goes to y + r * y_stride (y may be x).
struct RmsNormArgs {
  const float* x = nullptr;  // [rows, groups, width]
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t width = 0;
  const float* weight = nullptr;  // [width]; nullptr: ones
  float eps = 0;
  float* y = nullptr;  // [rows, groups, width]
  int64_t y_stride = 0;
  int64_t groups = 1;
};
namespace ref {
void rms_norm(backend::Context& ctx, const RmsNormArgs& args);
}
namespace cpu {
void rms_norm(backend::Context& ctx, const RmsNormArgs& args);
}
void rms_norm(backend::Context& ctx, const RmsNormArgs& args);  // dispatches on ctx.kernels

}  // namespace heddle::ops
