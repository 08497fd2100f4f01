#include "mixers/short_conv/kernels.h"

namespace heddle::mixers::short_conv::ref {

void multiply(backend::Context&, const MultiplyArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t i = 0; i < args.width; ++i) {
      float& a = args.a[t * args.a_stride + i];
      a = static_cast<float>(static_cast<double>(a) *
                             static_cast<double>(args.b[t * args.b_stride + i]));
    }
}

}  // namespace heddle::mixers::short_conv::ref
