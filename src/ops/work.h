#pragma once
// What an operation cannot do without, for benches and profiles: the numerator of every "percent of
// the limit".
#include "backend/machine_limits.h"
#include "backend/profile.h"
#include "ops/attention/attention.h"
#include "ops/matmul/matmul.h"

namespace heddle::ops {

// The packed weights once; block formats multiply in int8, floats in float32.
backend::Work product_work(const PackedMatrix& weights, int64_t tokens);
// The visible keys and values once for every segment, whatever its rows and query groups.
backend::Work attention_work(const AttentionArgs& args);

// y [T, N] = x [T, K] W^T as the part `name` of a profile.
void project(backend::Context& ctx, const char* name, tensor::ConstRows x,
             const PackedMatrix& weights, tensor::Rows y);

// The least time on this machine: the reads, or the arithmetic if that takes longer.
struct Limit {
  double seconds = 0;
  const char* bound = "";  // "read bandwidth", "int8 peak", "fp32 peak"; empty: no work
};
Limit limit_of(const backend::Work& work, const backend::MachineLimits& machine);

}  // namespace heddle::ops
