// Memory is all the cost: a row is read and written once. Threads share the rows.
#include <algorithm>
#include <cstring>

#include "ops/rows/rows.h"

namespace heddle::ops {
namespace {

// Rows that are worth waking another thread for.
int64_t grain(int64_t width) {
  constexpr int64_t kValues = 32768;
  return std::max<int64_t>(1, kValues / std::max<int64_t>(1, width));
}

}  // namespace

// Dequantising a row costs more than moving it.
void cpu::embed(backend::Context& ctx, const EmbedArgs& args) {
  const int64_t width = args.y.width, stride = args.y.stride;
  float* y = args.y.f32();
  ctx.pool.parallel_for(args.y.rows, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = y + t * stride;
      args.table->dequantize_row(args.tokens[static_cast<size_t>(t)], row);
      if (args.scale == 1.0f) continue;
      for (int64_t i = 0; i < width; ++i) row[i] *= args.scale;
    }
  });
}

void cpu::gather(backend::Context& ctx, tensor::ConstRows x, std::span<const int32_t> rows,
                 tensor::Rows y) {
  const auto bytes = static_cast<size_t>(y.row_bytes());
  ctx.pool.parallel_for(y.rows, grain(y.width), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(y.row(i), x.row(rows[static_cast<size_t>(i)]), bytes);
  });
}

void cpu::add_bias(backend::Context& ctx, const tensor::Vector& bias, tensor::Rows y) {
  const int64_t width = y.width, stride = y.stride;
  const float* add = bias.data();
  float* values = y.f32();
  ctx.pool.parallel_for(y.rows, grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t i = 0; i < width; ++i) values[t * stride + i] += add[i];
  });
}

}  // namespace heddle::ops
