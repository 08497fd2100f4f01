#pragma once
// Elementwise halves of LFM2's gated short convolution, around ops/conv/causal_conv.h.
#include <cstdint>

#include "backend/context.h"

namespace heddle::mixers::short_conv {

// a[t, i] *= b[t, i]; a, b [T, width] with row strides.
struct MultiplyArgs {
  float* a = nullptr;
  int64_t a_stride = 0;
  const float* b = nullptr;
  int64_t b_stride = 0;
  int64_t tokens = 0;
  int64_t width = 0;
};

namespace ref {
void multiply(backend::Context& ctx, const MultiplyArgs& args);
}
namespace cpu {
void multiply(backend::Context& ctx, const MultiplyArgs& args);
}

}  // namespace heddle::mixers::short_conv
