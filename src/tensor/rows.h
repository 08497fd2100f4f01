#pragma once
// What sub-layers and ops pass to each other: rows of a matrix, with the type of their values. A
// view; whoever allocated the memory owns it.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/check.h"
#include "base/dtype.h"

namespace heddle::tensor {

// `rows` rows of `width` values, `stride` values from one to the next. Byte is std::byte or const.
template <class Byte>
struct BasicRows {
  using Float = std::conditional_t<std::is_const_v<Byte>, const float, float>;

  Byte* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t stride = 0;

  BasicRows() = default;
  // Float32 rows; contiguous without a stride.
  BasicRows(Float* values, int64_t count, int64_t columns, int64_t step = 0)
      : data(reinterpret_cast<Byte*>(values)),
        rows(count),
        width(columns),
        stride(step == 0 ? columns : step) {}
  operator BasicRows<const std::byte>() const  // NOLINT: rows may be read wherever they are
      requires(!std::is_const_v<Byte>) {
    BasicRows<const std::byte> read;
    read.data = data, read.dtype = dtype;
    read.rows = rows, read.width = width, read.stride = stride;
    return read;
  }

  // The values as float32, which they must be, without gaps between rows.
  Float* f32() const {
    HEDDLE_CHECK(stride == width, "rows of {} values, {} apart, where no gap is expected", width,
                 stride);
    HEDDLE_CHECK(dtype == DType::f32, "rows of {} where float32 is expected",
                 dtype_info(dtype).name);
    return reinterpret_cast<Float*>(data);
  }
  int64_t row_bytes() const { return dtype_bytes(dtype, width); }
  Byte* row(int64_t i) const { return data + i * dtype_bytes(dtype, stride); }
};

using Rows = BasicRows<std::byte>;
using ConstRows = BasicRows<const std::byte>;

}  // namespace heddle::tensor
