#include "sublayer/naive.h"

#include "backend/weight_memory.h"
#include "base/check.h"
#include "ops/naive.h"

namespace heddle::sublayer {

std::vector<float> NaiveRun::product(std::string_view matrix, std::span<const float> rows) const {
  const auto source = weights.matrix(matrix);
  HEDDLE_CHECK(source.has_value(), "naive form: no such matrix");
  backend::WeightMemory memory;
  const auto packed = ops::pack(ctx.pool, {&*source, 1}, {.memory = &memory});
  HEDDLE_CHECK(packed.has_value(), "naive form: a matrix that cannot be packed");
  std::vector<float> y(static_cast<size_t>(tokens * source->rows));
  ops::naive::matmul(ctx, {.x = rows.data(),
                           .x_stride = source->cols,
                           .tokens = tokens,
                           .weights = &*packed,
                           .y = y.data(),
                           .y_stride = source->rows});
  return y;
}

std::vector<std::vector<float>> NaiveRun::stacked(std::span<const std::string_view> matrices,
                                                  std::span<const float> rows) const {
  std::vector<std::vector<float>> result(static_cast<size_t>(tokens));
  for (const std::string_view matrix : matrices) {
    const std::vector<float> part = product(matrix, rows);
    const auto width = std::ssize(part) / tokens;
    auto at = part.begin();
    for (std::vector<float>& row : result) {
      row.insert(row.end(), at, at + width);
      at += width;
    }
  }
  return result;
}

std::vector<float> NaiveRun::values(std::string_view name) const {
  auto values = weights.values(name);
  HEDDLE_CHECK(values.has_value(), "naive form: no such weight");
  return std::move(*values);
}

}  // namespace heddle::sublayer
