#pragma once
// What sub-layers and ops pass to each other: rows of a matrix, with the type of their values. A
// view; whoever allocated the memory, the host's or a device's, owns it.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "backend/arena.h"
#include "base/check.h"
#include "base/dtype.h"

namespace heddle::tensor {

// `rows` rows of `width` values, `stride` values from the begin of one to that of the next. Byte is
// std::byte or const std::byte.
template <class Byte>
struct BasicRows {
  using Float = std::conditional_t<std::is_const_v<Byte>, const float, float>;

  Byte* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t stride = 0;

  BasicRows() = default;
  // Float32 rows without gaps.
  BasicRows(Float* values, int64_t count, int64_t columns)
      : data(reinterpret_cast<Byte*>(values)), rows(count), width(columns), stride(columns) {}
  operator BasicRows<const std::byte>() const  // NOLINT: rows may be read wherever they are
      requires(!std::is_const_v<Byte>) {
    BasicRows<const std::byte> read;
    read.data = data, read.dtype = dtype;
    read.rows = rows, read.width = width, read.stride = stride;
    return read;
  }

  // The values, which must be float32. Row i begins at f32() + i * stride.
  Float* f32() const {
    HEDDLE_CHECK(dtype == DType::f32, "rows of {} where float32 is expected",
                 dtype_info(dtype).name);
    return reinterpret_cast<Float*>(data);
  }
  bool contiguous() const { return stride == width || rows <= 1; }
  int64_t row_bytes() const { return dtype_bytes(dtype, width); }
  Byte* row(int64_t i) const { return data + i * dtype_bytes(dtype, stride); }

  // Rows [first, first + count).
  BasicRows part(int64_t first, int64_t count) const {
    HEDDLE_CHECK(first >= 0 && count >= 0 && first + count <= rows, "rows {} + {} of {}", first,
                 count, rows);
    BasicRows part = *this;
    part.data = row(first);
    part.rows = count;
    return part;
  }
  // Columns [first, first + count) of every row.
  BasicRows columns(int64_t first, int64_t count) const {
    HEDDLE_CHECK(first >= 0 && count >= 0 && first + count <= width, "columns {} + {} of {}", first,
                 count, width);
    BasicRows columns = *this;
    columns.data += dtype_bytes(dtype, first);
    columns.width = count;
    return columns;
  }
};

using Rows = BasicRows<std::byte>;
using ConstRows = BasicRows<const std::byte>;

// Float32 rows in scratch memory, not initialised, valid as what an Arena gives. Throws
// OutOfMemory.
inline Rows scratch_rows(backend::Arena& scratch, int64_t rows, int64_t width) {
  return {scratch.allocate<float>(rows * width), rows, width};
}

}  // namespace heddle::tensor
