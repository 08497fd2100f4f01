#pragma once
// A step of a few sequences laid out as the engine lays it out, with input rows that are a pure
// function of (token, position): what the rigs of mixers and kernels have in common.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "base/rng.h"
#include "state/step.h"
#include "tensor/rows.h"

namespace heddle::test {

using Rows = std::vector<std::vector<float>>;  // one row per token

// What one sequence contributes to a step.
struct StepPart {
  state::SequenceState* sequence = nullptr;
  std::vector<int32_t> tokens;
  int64_t drafts = 0;
  std::vector<int32_t> parents;  // [drafts] as in state::Segment; empty = chain
};

// The generator of the input row of a token at a position.
inline Rng row_rng(int32_t token, int64_t position) {
  return Rng(mix64(static_cast<uint64_t>(token) * 1000003 + static_cast<uint64_t>(position)));
}

class StepLayout {
 public:
  // Begins a step of every part. `input(token, position)` gives an input row; the layout has one
  // layer.
  template <typename Input>
  StepLayout(const std::vector<StepPart>& parts, const state::StateLayout& layout,
             const Input& input)
      : step_(layout) {
    for (const StepPart& part : parts) {
      const std::span<const int32_t> tokens = part.tokens;
      const size_t committed = tokens.size() - static_cast<size_t>(part.drafts);
      step_.add(*part.sequence, tokens.first(committed), {},
                {tokens.subspan(committed), part.parents});
    }
    batch_ = step_.batch();
    for (int64_t t = 0; t < batch_.tokens; ++t) {
      const auto i = static_cast<size_t>(t);
      const auto row = input(step_.tokens()[i], batch_.positions[i]);
      x_.insert(x_.end(), row.begin(), row.end());
    }
  }
  StepLayout(const StepLayout&) = delete;  // batch_ points into step_
  StepLayout& operator=(const StepLayout&) = delete;

  const state::BatchView& batch() const { return batch_; }
  state::StateView state() const { return step_.state(0); }
  const float* x() const { return x_.data(); }  // [tokens, width of an input row]
  tensor::ConstRows x(int64_t width) const { return {x_.data(), batch_.tokens, width}; }

 private:
  state::StepBatch step_;
  state::BatchView batch_;
  std::vector<float> x_;
};

// Output rows between guards, all NaN until they are written.
class OutputRows {
 public:
  OutputRows(int64_t tokens, int64_t width)
      : tokens_(tokens),
        width_(width),
        y_(static_cast<size_t>(tokens * width + 2 * kGuard),
           std::numeric_limits<float>::quiet_NaN()) {}

  float* data() { return y_.data() + kGuard; }
  tensor::Rows rows() { return {data(), tokens_, width_}; }

  // The rows; expects that all of them were written, with finite values, and nothing around them.
  Rows take() const {
    for (size_t i = 0; i < kGuard; ++i) {
      EXPECT_TRUE(std::isnan(y_[i])) << "written before the output";
      EXPECT_TRUE(std::isnan(y_[y_.size() - 1 - i])) << "written after the output";
    }
    Rows rows;
    for (int64_t t = 0; t < tokens_; ++t) {
      const auto begin = y_.begin() + kGuard + t * width_;
      rows.emplace_back(begin, begin + width_);
      for (const float value : rows.back()) EXPECT_TRUE(std::isfinite(value)) << "row " << t;
    }
    return rows;
  }

 private:
  static constexpr int64_t kGuard = 64;
  int64_t tokens_, width_;
  std::vector<float> y_;
};

inline std::vector<int32_t> random_tokens(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng.below(1000));
  return tokens;
}

// Equal bits, row by row; names the first row that differs.
inline ::testing::AssertionResult same_bits(const Rows& a, const Rows& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " rows against " << b.size();
  for (size_t row = 0; row < a.size(); ++row) {
    if (a[row].size() != b[row].size())
      return ::testing::AssertionFailure() << "row " << row << " of different widths";
    for (size_t i = 0; i < a[row].size(); ++i)
      if (std::memcmp(&a[row][i], &b[row][i], sizeof(float)) != 0)
        return ::testing::AssertionFailure()
               << "row " << row << " value " << i << ": " << a[row][i] << " against " << b[row][i];
  }
  return ::testing::AssertionSuccess();
}

}  // namespace heddle::test
