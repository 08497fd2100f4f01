#pragma once
// A step of a few sequences laid out as the engine lays it out, with input rows that are a pure
// function of (token, position): what the rigs of mixers and kernels have in common.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "state/sequence_state.h"

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
  // Begins a step of every part. `input(token, position)` gives an input row; state_parts: how many
  // parts the state of a sequence has.
  template <typename Input>
  StepLayout(const std::vector<StepPart>& parts, int64_t state_parts, const Input& input)
      : state_parts_(state_parts) {
    for (const StepPart& part : parts) {
      state::Segment segment;
      segment.row = static_cast<int64_t>(positions_.size());
      segment.start = part.sequence->position();
      segment.length = static_cast<int64_t>(part.tokens.size());
      segment.drafts = part.drafts;
      segment.parents = part.parents;
      part.sequence->begin_step(segment.committed(), segment.drafts, segment.parents);
      std::vector<int64_t> own;
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t parent = segment.parent(i);
        own.push_back(parent < 0 ? segment.start : own[static_cast<size_t>(parent)] + 1);
        positions_.push_back(static_cast<int32_t>(own.back()));
        const auto row = input(part.tokens[static_cast<size_t>(i)], own.back());
        x_.insert(x_.end(), row.begin(), row.end());
      }
      segments_.push_back(segment);
      for (int64_t p = 0; p < state_parts; ++p) views_.push_back(part.sequence->part_view(p));
    }
    batch_.tokens = static_cast<int64_t>(positions_.size());
    batch_.segments = segments_;
    batch_.positions = positions_;
  }
  StepLayout(const StepLayout&) = delete;  // batch_ points into the others
  StepLayout& operator=(const StepLayout&) = delete;

  const state::BatchView& batch() const { return batch_; }
  state::StateView state() const { return {views_, state_parts_}; }
  const float* x() const { return x_.data(); }  // [tokens, width of an input row]

 private:
  int64_t state_parts_;
  std::vector<state::Segment> segments_;
  std::vector<int32_t> positions_;
  std::vector<float> x_;
  std::vector<state::PartView> views_;
  state::BatchView batch_;
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
