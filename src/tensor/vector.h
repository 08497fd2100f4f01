#pragma once
// A small weight as kernels read it: a norm, the taps of a convolution, a bias, sinks. float32.
#include <cstdint>
#include <span>

#include "backend/weight_memory.h"

namespace heddle::tensor {

class Vector {
 public:
  // Empty: a weight that the layer does without.
  Vector() = default;
  // A copy of `values` in `memory`, which must outlive it.
  static Result<Vector> of(std::span<const float> values, backend::WeightMemory& memory);

  const float* data() const { return data_; }  // 64-byte aligned, in its memory; nullptr if empty
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(float)); }

 private:
  const float* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace heddle::tensor
