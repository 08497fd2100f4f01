#include <algorithm>

#include "ops/rows/rows.h"

namespace heddle::ops {

void ref::embed(backend::Context&, const EmbedArgs& args) {
  for (int64_t t = 0; t < args.y.rows; ++t) {
    float* row = args.y.f32() + t * args.y.stride;
    args.table->dequantize_row(args.tokens[static_cast<size_t>(t)], row);
    for (int64_t i = 0; i < args.y.width; ++i)
      row[i] = static_cast<float>(static_cast<double>(row[i]) * args.scale);
  }
}

void ref::gather(backend::Context&, tensor::ConstRows x, std::span<const int32_t> rows,
                 tensor::Rows y) {
  for (int64_t i = 0; i < y.rows; ++i)
    std::copy_n(x.row(rows[static_cast<size_t>(i)]), y.row_bytes(), y.row(i));
}

void ref::add_bias(backend::Context&, const tensor::Vector& bias, tensor::Rows y) {
  for (int64_t t = 0; t < y.rows; ++t)
    for (int64_t i = 0; i < y.width; ++i) {
      float& value = y.f32()[t * y.stride + i];
      value = static_cast<float>(static_cast<double>(value) + bias.data()[i]);
    }
}

}  // namespace heddle::ops
