#include "ops/elementwise/activation.h"

namespace heddle::ops {

void gated(backend::Context& ctx, const GatedArgs& args) {
  ctx.reference() ? ref::gated(ctx, args) : cpu::gated(ctx, args);
}

void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args) {
  ctx.reference() ? ref::sigmoid_gate(ctx, args) : cpu::sigmoid_gate(ctx, args);
}

void add(backend::Context& ctx, const AddArgs& args) {
  ctx.reference() ? ref::add(ctx, args) : cpu::add(ctx, args);
}

}  // namespace heddle::ops
