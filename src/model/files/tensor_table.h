#pragma once
// The tensors of a model file, whatever its format: names, types, shapes and where the bytes lie.
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/result.h"

namespace heddle::model {

struct TensorInfo {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;       // outermost first: [out, in] of a matrix, whatever the format
  const std::byte* data = nullptr;  // borrowed from the file's mapping
  int64_t bytes = 0;
  int32_t file = 0;  // which of the checkpoint's files

  int64_t elements() const;
};

// "[576, 49152]"
std::string shape_text(const std::vector<int64_t>& shape);

// Product of the shape with overflow refused; zero-sized and negative dimensions are refused too.
Result<int64_t> checked_elements(std::string_view tensor, const std::vector<int64_t>& shape);

class TensorTable {
 public:
  // False when the name is there already.
  bool add(std::string name, TensorInfo info) {
    return tensors_.emplace(std::move(name), std::move(info)).second;
  }
  const TensorInfo* find(std::string_view name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
  }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const std::map<std::string, TensorInfo, std::less<>>& all() const { return tensors_; }

 private:
  std::map<std::string, TensorInfo, std::less<>> tensors_;
};

}  // namespace heddle::model
