#pragma once
// Depthwise causal convolution over a ragged batch:
//   y[t, c] = act(bias[c] + sum_{j < W} w[j, c] x[t - (W - 1) + j, c])
// where "t - i" is the i-th ancestor of row t: the rows of its segment (through Segment::parent in
// a tree of drafts), then the records before the segment, then zeros before position 0. The state
// is a window part whose record is a row of x (before the convolution), so a decode step reads W -
// 1 records and appends one. Used by LFM2, Mamba and the delta-rule mixers (W = 3 or 4).
#include <cstdint>
#include <string>
#include <vector>

#include "backend/context.h"
#include "state/batch.h"
#include "state/state_part.h"

namespace heddle::ops {

constexpr int64_t kMaxConvTaps = 16;

// The window part of a convolution of `taps` >= 2 over `channels`: the last taps - 1 inputs,
// float32.
state::StatePart causal_conv_part(std::string name, int64_t channels, int64_t taps);

// [channels, taps] of a file -> [taps, channels] of the kernels.
std::vector<float> transpose_taps(const std::vector<float>& weights, int64_t channels,
                                  int64_t taps);

struct CausalConvArgs {
  const state::BatchView* batch = nullptr;
  const state::StateView* state = nullptr;
  int64_t part = 0;  // index of the window part in the mixer's state
  int64_t channels = 0;
  int64_t taps = 0;
  const float* weights = nullptr;  // [taps, channels]; weights[taps - 1] multiplies the row itself
  const float* bias = nullptr;     // [channels]; nullptr: none
  bool silu = false;
  const float* x = nullptr;  // [T, channels], row stride x_stride
  int64_t x_stride = 0;
  float* y = nullptr;  // [T, channels], row stride y_stride; not overlapping x
  int64_t y_stride = 0;
};

// Where the input `back` steps before row i of a segment lies; nullptr: before position 0 (zeros).
const float* causal_conv_tap(const CausalConvArgs& args, int64_t segment, int64_t i, int64_t back);

// Writes the records that outlive the step: rows whose slot has a page.
void causal_conv_store(const CausalConvArgs& args);

// Both compute y and store the records.
namespace ref {
// One output in float64.
double causal_conv_at(const CausalConvArgs& args, int64_t segment, int64_t i, int64_t channel);
void causal_conv(backend::Context& ctx, const CausalConvArgs& args);
}  // namespace ref
namespace cpu {
void causal_conv(backend::Context& ctx, const CausalConvArgs& args);
}
void causal_conv(backend::Context& ctx, const CausalConvArgs& args);  // dispatches on ctx.kernels

}  // namespace heddle::ops
