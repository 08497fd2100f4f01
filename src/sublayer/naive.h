#pragma once
// What the naive form of a kind is given: one sequence from its start.
#include <span>
#include <string_view>
#include <vector>

#include "backend/context.h"
#include "base/dtype.h"
#include "ops/matmul/matmul.h"
#include "sublayer/params.h"
#include "sublayer/precision.h"
#include "sublayer/weight.h"

namespace heddle::sublayer {

struct NaiveRun {
  backend::Context& ctx;
  const Params& params;
  const StatePrecision& precision;
  WeightSource& weights;
  int64_t tokens = 0;
  std::span<const float> x;  // [T, D]

  // rows [T, cols] times the transpose of a matrix, [T, rows]: running sums; of quantised weights
  // with activations rounded to int8.
  std::vector<float> product(std::string_view matrix, std::span<const float> rows) const;
  // [T] rows of the products with several matrices, one after the other.
  std::vector<std::vector<float>> stacked(std::span<const std::string_view> matrices,
                                          std::span<const float> rows) const;
  std::vector<float> values(std::string_view name) const;  // that the design declares
};

}  // namespace heddle::sublayer
