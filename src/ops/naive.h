#pragma once
// Every operation as anyone would write it in the precision of the fast kernels: one loop, one
// running sum. A kernel may err at most twice as much (docs/numerics.md), so this is what tests and
// benches measure it against; nothing else runs it.
#include <span>

#include "ops/attention/attention.h"
#include "ops/conv/causal_conv.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/norm.h"
#include "ops/elementwise/rope.h"
#include "ops/matmul/matmul.h"

namespace heddle::ops {

// ||got - exact|| / ||exact||
double relative_error(std::span<const float> got, std::span<const float> exact);
// Twice the naive error, which is at least one rounding of the output.
double error_budget(std::span<const float> naive, std::span<const float> exact);

namespace naive {
// Block formats: activations in int8, one scale for 32 values.
void matmul(backend::Context& ctx, const MatmulArgs& args);
void rms_norm(backend::Context& ctx, const RmsNormArgs& args);
void rope(backend::Context& ctx, const RopeArgs& args);
void gated(backend::Context& ctx, const GatedArgs& args);
void sigmoid_gate(backend::Context& ctx, const SigmoidGateArgs& args);
// Stores no records.
void causal_conv(backend::Context& ctx, const CausalConvArgs& args);
// Reads the pages, of batches without trees of drafts.
void attention(backend::Context& ctx, const AttentionArgs& args);
}  // namespace naive

}  // namespace heddle::ops
