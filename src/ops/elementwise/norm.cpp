#include "ops/elementwise/norm.h"

namespace heddle::ops {

void rms_norm(backend::Context& ctx, const RmsNormArgs& args) {
  ctx.reference() ? ref::rms_norm(ctx, args) : cpu::rms_norm(ctx, args);
}

}  // namespace heddle::ops
