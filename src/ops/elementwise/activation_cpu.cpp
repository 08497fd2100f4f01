// act(gate) up, y sigmoid(gate), y + x, elementwise: threads own ranges of columns, rows, elements.
// Floors an element: the gated products 12 bytes and an exponential with a division, some 25
// instructions for a register of elements, by which they are bound while their rows are in a cache;
// the sum 12 bytes, so memory.
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

void add_range(const float* x, int64_t begin, int64_t end, float* y) {
  int64_t i = begin;
  for (; i + 16 <= end; i += 16) store16(add(load16(y + i), load16(x + i)), y + i);
  for (; i < end; ++i) y[i] += x[i];
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

void cpu::add(backend::Context& ctx, const float* x, int64_t count, float* y) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(add_range);
  ctx.pool.parallel_for(count, kAddGrain,
                        [&](int64_t begin, int64_t end, int) { kernel(x, begin, end, y); });
}

}  // namespace heddle::ops
#endif
