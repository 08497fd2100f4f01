#include <cmath>

#include "ops/elementwise/activation.h"

namespace heddle::ops {
namespace {

double activate(Activation activation, double x) {
  if (activation == Activation::silu) return x / (1 + std::exp(-x));
  // sqrt(2 / pi): the tanh form of GELU (arXiv 1606.08415).
  return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

}  // namespace

void ref::gated(backend::Context&, const GatedArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t) {
    const float* gate = args.gate_up + t * 2 * args.width;
    const float* up = gate + args.width;
    float* out = args.out + t * args.width;
    for (int64_t i = 0; i < args.width; ++i)
      out[i] = static_cast<float>(activate(args.activation, gate[i]) * up[i]);
  }
}

void ref::sigmoid_gate(backend::Context&, const SigmoidGateArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t) {
    const float* gate = args.gate + t * args.gate_stride;
    float* y = args.y + t * args.y_stride;
    for (int64_t i = 0; i < args.width; ++i)
      y[i] = static_cast<float>(y[i] / (1 + std::exp(-static_cast<double>(gate[i]))));
  }
}

void ref::add(backend::Context&, const AddArgs& args) {
  const float* x = args.x.f32();
  float* y = args.y.f32();
  for (int64_t i = 0; i < args.y.rows * args.y.width; ++i)
    y[i] = y[i] * args.y_scale + x[i] * args.x_scale;
}

}  // namespace heddle::ops
