#pragma once
// Elementwise maths of gated feed-forward layers and residuals.
#include <cstdint>

#include "backend/context.h"
#include "tensor/rows.h"

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
// y = y_scale y + x_scale x; each product is rounded, then the sum: scales of 1 change no bit.
struct AddArgs {
  tensor::ConstRows x;  // [T, D], as y contiguous
  tensor::Rows y;       // [T, D]
  float x_scale = 1;
  float y_scale = 1;
};
namespace ref {
void gated(backend::Context& ctx, const GatedArgs& args);
void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args);
void add(backend::Context& ctx, const AddArgs& args);
}  // namespace ref
namespace cpu {
void gated(backend::Context& ctx, const GatedArgs& args);
void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args);
void add(backend::Context& ctx, const AddArgs& args);
}  // namespace cpu
void gated(backend::Context& ctx, const GatedArgs& args);
void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args);
void add(backend::Context& ctx, const AddArgs& args);

}  // namespace heddle::ops
