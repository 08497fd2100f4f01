#include "ops/elementwise/activation.h"

namespace heddle::ops {

void gated(backend::Context& ctx, const GatedArgs& args) {
  ctx.reference() ? ref::gated(ctx, args) : cpu::gated(ctx, args);
}

void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args) {
  ctx.reference() ? ref::sigmoid_gate(ctx, args) : cpu::sigmoid_gate(ctx, args);
}

void add(backend::Context& ctx, const float* x, int64_t count, float* y) {
  ctx.reference() ? ref::add(ctx, x, count, y) : cpu::add(ctx, x, count, y);
}

}  // namespace heddle::ops
