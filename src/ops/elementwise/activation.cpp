#include "ops/elementwise/activation.h"

#include "base/check.h"

namespace heddle::ops {

void gated(backend::Context& ctx, const GatedArgs& args) {
  ctx.reference() ? ref::gated(ctx, args) : cpu::gated(ctx, args);
}

void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args) {
  ctx.reference() ? ref::sigmoid_gate(ctx, args) : cpu::sigmoid_gate(ctx, args);
}

void add(backend::Context& ctx, const AddArgs& args) {
  HEDDLE_CHECK(args.x.rows == args.y.rows && args.x.width == args.y.width && args.x.contiguous() &&
                   args.y.contiguous(),
               "{} rows of {}, {} apart, to {} of {}, {} apart", args.x.rows, args.x.width,
               args.x.stride, args.y.rows, args.y.width, args.y.stride);
  ctx.reference() ? ref::add(ctx, args) : cpu::add(ctx, args);
}

}  // namespace heddle::ops
