#include "model/files/tensor_table.h"

#include <fmt/ranges.h>

namespace heddle::model {

int64_t TensorInfo::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Result<int64_t> checked_elements(std::string_view tensor, const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size <= 0)
      return fail("tensor {}: shape {} has a size that is not positive", tensor, shape_text(shape));
    if (__builtin_mul_overflow(count, size, &count) || count > (int64_t{1} << 48))
      return fail("tensor {}: shape {} is too large", tensor, shape_text(shape));
  }
  return count;
}

}  // namespace heddle::model
