#include "tensor/vector.h"

#include <cstring>

namespace heddle::tensor {

Result<Vector> Vector::of(std::span<const float> values, backend::WeightMemory& memory) {
  Vector vector;
  if (values.empty()) return vector;
  HEDDLE_TRY(std::byte * data, memory.allocate(static_cast<int64_t>(values.size_bytes())));
  std::memcpy(data, values.data(), values.size_bytes());
  vector.data_ = reinterpret_cast<const float*>(data);
  vector.size_ = static_cast<int64_t>(values.size());
  return vector;
}

}  // namespace heddle::tensor
