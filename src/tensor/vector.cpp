#include "tensor/vector.h"

namespace heddle::tensor {

Result<Vector> Vector::of(std::span<const float> values, backend::WeightMemory& memory) {
  Vector vector;
  if (values.empty()) return vector;
  HEDDLE_TRY(std::byte * data, memory.copy(std::as_bytes(values)));
  vector.data_ = reinterpret_cast<const float*>(data);
  vector.size_ = std::ssize(values);
  return vector;
}

}  // namespace heddle::tensor
