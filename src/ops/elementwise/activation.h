#pragma once
// Elementwise maths of gated feed-forward layers and residuals.
#include <cstdint>

#include "backend/context.h"

namespace heddle::ops {

enum class Activation : uint8_t { silu, gelu_tanh };

// out[t, i] = act(gate_up[t, i]) * gate_up[t, width + i]; gate_up [T, 2 width], out [T, width]
// contiguous.
struct GatedArgs {
  const float* gate_up = nullptr;
  int64_t tokens = 0;
  int64_t width = 0;
  Activation activation = Activation::silu;
  float* out = nullptr;
};
// y[t, i] *= sigmoid(gate[t, i]); [T, width] with row strides.
struct SigmoidGateArgs {
  const float* gate = nullptr;
  int64_t gate_stride = 0;
  int64_t tokens = 0;
  int64_t width = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};
namespace ref {
void gated(backend::Context& ctx, const GatedArgs& args);
void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args);
void add(backend::Context& ctx, const float* x, int64_t count, float* y);  // y += x
}  // namespace ref
namespace cpu {
void gated(backend::Context& ctx, const GatedArgs& args);
void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args);
void add(backend::Context& ctx, const float* x, int64_t count, float* y);
}  // namespace cpu
void gated(backend::Context& ctx, const GatedArgs& args);
void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args);
void add(backend::Context& ctx, const float* x, int64_t count, float* y);

}  // namespace heddle::ops
