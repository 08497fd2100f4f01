// A product of two floats has one rounding, whoever computes it: plain loops, which the compiler
// vectorises; the floor is memory.
#include "mixers/short_conv/kernels.h"

namespace heddle::mixers::short_conv::cpu {

void multiply(backend::Context& ctx, const MultiplyArgs& args) {
  // Ranges of columns, so that one token is shared out too.
  ctx.pool.parallel_for(args.width, 512, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = 0; t < args.tokens; ++t) {
      float* __restrict a = args.a + t * args.a_stride;
      const float* __restrict b = args.b + t * args.b_stride;
      for (int64_t i = begin; i < end; ++i) a[i] *= b[i];
    }
  });
}

}  // namespace heddle::mixers::short_conv::cpu
