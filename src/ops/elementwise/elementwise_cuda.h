#pragma once
// Norms, rotations, activations and rows of tables on a GPU: the arguments of the CPU's kernels
// with pointers to device memory. A row's bits depend on the row alone.
#include "backend/cuda/stream.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/norm.h"
#include "ops/elementwise/rope.h"

namespace heddle::ops::cuda {

using backend::cuda::Stream;

Status rms_norm(const Stream& stream, const RmsNormArgs& args);
// x += delta, then the norm of x (whose groups are 1): a residual and what follows it.
struct AddRmsNormArgs {
  float* x = nullptr;            // [rows, width], contiguous
  const float* delta = nullptr;  // [rows, width], contiguous
  int64_t rows = 0;
  int64_t width = 0;
  const float* weight = nullptr;  // [width]; nullptr: ones
  float eps = 0;
  float* y = nullptr;  // [rows, width], contiguous
};
Status add_rms_norm(const Stream& stream, const AddRmsNormArgs& args);

// `args.rope` is in host memory: its frequencies travel with the launch. At most so many.
constexpr int64_t kMaxRopeHalf = 256;
Status rope(const Stream& stream, const RopeArgs& args);

Status gated(const Stream& stream, const GatedArgs& args);
Status sigmoid_gate(const Stream& stream, const SigmoidGateArgs& args);
Status add(const Stream& stream, const AddArgs& args);

// out[t] = scale table[ids[t]], rows of a bf16 matrix [vocabulary, width]: embedding.
struct GatherArgs {
  const uint16_t* table = nullptr;
  const int32_t* ids = nullptr;  // [tokens]
  int64_t tokens = 0;
  int64_t width = 0;
  float scale = 1;
  float* out = nullptr;  // [tokens, width]
};
Status gather(const Stream& stream, const GatherArgs& args);

}  // namespace heddle::ops::cuda
