// Elementwise: bound by the exponential for the gated product, by memory for the sum.
#include <algorithm>

#include "ops/elementwise/activation.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/elementwise/activation_cpu.cpp"
#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

static HWY_INLINE F32x16 activate(Activation activation, F32x16 x) {
  return activation == Activation::silu ? silu(x) : gelu_tanh(x);
}

// Columns [begin, end) of one token.
void gated_columns(const GatedArgs& args, int64_t token, int64_t begin, int64_t end) {
  const float* gate = args.gate_up + token * 2 * args.width;
  const float* up = gate + args.width;
  float* out = args.out + token * args.width;
  int64_t i = begin;
  for (; i + 16 <= end; i += 16)
    store16(mul(activate(args.activation, load16(gate + i)), load16(up + i)), out + i);
  if (i < end) {
    const F32x16 v = activate(args.activation, load16_partial(gate + i, end - i));
    store16_partial(mul(v, load16_partial(up + i, end - i)), out + i, end - i);
  }
}

void sigmoid_gate_rows(const SigmoidGateArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* gate = args.gate + t * args.gate_stride;
    float* y = args.y + t * args.y_stride;
    int64_t i = 0;
    for (; i + 16 <= args.width; i += 16)
      store16(mul(load16(y + i), sigmoid(load16(gate + i))), y + i);
    if (i < args.width) {
      const int64_t n = args.width - i;
      store16_partial(mul(load16_partial(y + i, n), sigmoid(load16_partial(gate + i, n))), y + i,
                      n);
    }
  }
}

void add_range(const AddArgs& args, int64_t begin, int64_t end) {
  const float* x = args.x.f32();
  float* y = args.y.f32();
  const F32x16 x_scale = set16(args.x_scale), y_scale = set16(args.y_scale);
  int64_t i = begin;
  for (; i + 16 <= end; i += 16)
    store16(add(mul(load16(y + i), y_scale), mul(load16(x + i), x_scale)), y + i);
  for (; i < end; ++i) y[i] = y[i] * args.y_scale + x[i] * args.x_scale;
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops {

HWY_EXPORT(gated_columns);
HWY_EXPORT(sigmoid_gate_rows);
HWY_EXPORT(add_range);

namespace {
// Elements that are worth waking another thread for.
constexpr int64_t kGatedGrain = 4096;
constexpr int64_t kAddGrain = 32768;
}  // namespace

void cpu::gated(backend::Context& ctx, const GatedArgs& args) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(gated_columns);
  if (args.width <= 0) return;
  // A multiple of 16, so that every column meets the same vector code whatever the split.
  const int64_t columns = std::min((args.width + 15) / 16 * 16, kGatedGrain);
  const int64_t blocks = (args.width + columns - 1) / columns;
  const int64_t grain = std::max<int64_t>(1, kGatedGrain / columns);
  ctx.pool.parallel_for(args.tokens * blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b % blocks * columns;
      kernel(args, b / blocks, first, std::min(first + columns, args.width));
    }
  });
}

void cpu::sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(sigmoid_gate_rows);
  const int64_t grain = std::max<int64_t>(1, kGatedGrain / std::max<int64_t>(1, args.width));
  ctx.pool.parallel_for(args.tokens, grain,
                        [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
}

void cpu::add(backend::Context& ctx, const AddArgs& args) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(add_range);
  ctx.pool.parallel_for(args.y.rows * args.y.width, kAddGrain,
                        [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
}

}  // namespace heddle::ops
#endif
