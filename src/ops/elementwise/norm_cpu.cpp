// y = x / sqrt(mean x^2 + eps) w: threads own rows. One pass for the sum of squares (16 partial
// sums, added in one order), one for the product; a row of a model's width stays in the first-level
// cache between the two. Floor: 8 bytes and 4 FLOPs an element, so memory.
#include <algorithm>
#include <cmath>

#include "ops/elementwise/norm.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/elementwise/norm_cpu.cpp"
#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

static void norm_vector(const float* x, int64_t width, const float* weight, float eps, float* y) {
  F32x16 squares = zero16();
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    const F32x16 v = load16(x + i);
    squares = fma(v, v, squares);
  }
  if (i < width) {
    const F32x16 v = load16_partial(x + i, width - i);
    squares = fma(v, v, squares);
  }
  const float inverse = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
  const F32x16 factor = set16(inverse);
  for (i = 0; i + 16 <= width; i += 16) {
    F32x16 v = mul(load16(x + i), factor);
    if (weight != nullptr) v = mul(v, load16(weight + i));
    store16(v, y + i);
  }
  if (i < width) {
    F32x16 v = mul(load16_partial(x + i, width - i), factor);
    if (weight != nullptr) v = mul(v, load16_partial(weight + i, width - i));
    store16_partial(v, y + i, width - i);
  }
}

void norm_rows(const RmsNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r)
    for (int64_t g = 0; g < args.groups; ++g)
      norm_vector(args.x + r * args.x_stride + g * args.width, args.width, args.weight, args.eps,
                  args.y + r * args.y_stride + g * args.width);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops {

HWY_EXPORT(norm_rows);

void cpu::rms_norm(backend::Context& ctx, const RmsNormArgs& args) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(norm_rows);
  // Waking the other threads costs more than a few thousand elements.
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, args.width * args.groups));
  ctx.pool.parallel_for(args.rows, grain,
                        [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
}

}  // namespace heddle::ops
#endif
