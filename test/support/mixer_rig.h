#pragma once
// One mixer with random weights over real sequence states: what the contract suite drives.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "mixers/mixer.h"
#include "state/sequence_state.h"

namespace heddle::test {

// Random weights of a design: matrices of unit gain; vectors near one (norms), convolutions of unit
// gain, and for gates the ranges that real models use.
class RandomWeights : public mixers::WeightSource {
 public:
  RandomWeights(const mixers::MixerDesign& design, uint64_t seed) {
    Rng rng(seed);
    for (const mixers::WeightSpec& spec : design.weights()) {
      int64_t count = 1;
      for (const int64_t n : spec.shape) count *= n;
      std::vector<float> values(static_cast<size_t>(count));
      const double gain =
          spec.shape.size() > 1 ? 1.0 / std::sqrt(static_cast<double>(spec.shape.back())) : 0.2;
      for (float& value : values) {
        if (spec.name == "decay") {
          value = -static_cast<float>(0.02 + 4 * rng.unit());
        } else {
          value =
              static_cast<float>(gain * rng.normal() +
                                 (spec.shape.size() == 1 ? (spec.name == "dt_bias" ? -1 : 1) : 0));
        }
      }
      values_[spec.name] = std::move(values);
      shapes_[spec.name] = spec.shape;
    }
  }
  Result<ops::MatrixSource> matrix(std::string_view name) override {
    const std::string key(name);
    ops::MatrixSource source;
    source.data = reinterpret_cast<const std::byte*>(values_.at(key).data());
    source.dtype = DType::f32;
    source.rows = shapes_.at(key).at(0);
    source.cols = shapes_.at(key).at(1);
    return source;
  }
  Result<std::vector<float>> values(std::string_view name) override {
    return values_.at(std::string(name));
  }

 private:
  std::map<std::string, std::vector<float>> values_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

using Rows = std::vector<std::vector<float>>;  // one output row per token

// What one sequence contributes to a step.
struct StepPart {
  state::SequenceState* sequence = nullptr;
  std::vector<int32_t> tokens;
  int64_t drafts = 0;
  std::vector<int32_t> parents;  // [drafts] as in state::Segment; empty = chain
};

class MixerRig {
 public:
  MixerRig(const mixers::MixerKind& kind, const mixers::MixerCase& mixer_case,
           backend::KernelSet kernels, int threads)
      : pool(threads), context{pool, scratch, kernels} {
    mixers::Params params = mixer_case.params;
    auto made = kind.design(params);
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().message);
    design = std::move(*made);
    layout.first_part.push_back(0);
    for (const state::StatePart& part : design->state_parts()) layout.entries.push_back({0, part});
    layout.first_part.push_back(layout.parts());
    RandomWeights weights(*design, 7);
    auto bound = design->bind(pool, weights, {});
    EXPECT_TRUE(bound.has_value()) << (bound ? "" : bound.error().message);
    mixer = std::move(*bound);
    width = *params.integer("d_model");
    blocks.set_poison(true);
  }

  std::unique_ptr<state::SequenceState> sequence() {
    return std::make_unique<state::SequenceState>(layout, blocks);
  }

  // The input row of a token at a position: a pure function of both.
  std::vector<float> input(int32_t token, int64_t position) const {
    Rng rng(mix64(static_cast<uint64_t>(token) * 1000003 + static_cast<uint64_t>(position)));
    std::vector<float> x(static_cast<size_t>(width));
    for (float& value : x) value = rng.normal() * input_scale;
    return x;
  }

  // Begins a step of every part and runs the mixer; commits nothing. Returns the output rows of
  // each part.
  std::vector<Rows> forward(const std::vector<StepPart>& parts) {
    std::vector<state::Segment> segments;
    std::vector<int32_t> positions;
    std::vector<float> x;
    std::vector<state::PartView> views;
    for (const StepPart& part : parts) {
      state::Segment segment;
      segment.row = static_cast<int64_t>(positions.size());
      segment.start = part.sequence->position();
      segment.length = static_cast<int64_t>(part.tokens.size());
      segment.drafts = part.drafts;
      segment.parents = part.parents;
      part.sequence->begin_step(segment.committed(), segment.drafts);
      std::vector<int64_t> own(part.tokens.size());
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t parent = segment.parent(i);
        own[static_cast<size_t>(i)] =
            parent < 0 ? segment.start : own[static_cast<size_t>(parent)] + 1;
        positions.push_back(static_cast<int32_t>(own[static_cast<size_t>(i)]));
        const auto row = input(part.tokens[static_cast<size_t>(i)], own[static_cast<size_t>(i)]);
        x.insert(x.end(), row.begin(), row.end());
      }
      segments.push_back(segment);
      for (int64_t p = 0; p < layout.parts(); ++p) views.push_back(part.sequence->part_view(p));
    }
    state::BatchView batch;
    batch.tokens = static_cast<int64_t>(positions.size());
    batch.segments = segments;
    batch.positions = positions;
    const size_t guard = 64;
    std::vector<float> y(x.size() + 2 * guard);
    std::memset(y.data(), 0xff, y.size() * sizeof(float));
    if (batch.tokens > 0)
      mixer->forward(context, batch, x.data(), state::StateView{views, layout.parts()},
                     y.data() + guard);
    for (size_t i = 0; i < guard; ++i) {
      EXPECT_TRUE(std::isnan(y[i])) << "written before the output";
      EXPECT_TRUE(std::isnan(y[y.size() - 1 - i])) << "written after the output";
    }
    std::vector<Rows> result;
    size_t row = 0;
    for (const StepPart& part : parts) {
      Rows rows;
      for (size_t i = 0; i < part.tokens.size(); ++i, ++row) {
        const auto begin =
            y.begin() + static_cast<int64_t>(guard) + static_cast<int64_t>(row) * width;
        rows.emplace_back(begin, begin + width);
        for (const float value : rows.back()) EXPECT_TRUE(std::isfinite(value)) << "row " << row;
      }
      result.push_back(std::move(rows));
    }
    return result;
  }

  // Commits with the accepted drafts, folding what they complete.
  void commit(state::SequenceState& sequence, const std::vector<int32_t>& accepted = {}) {
    sequence.commit(accepted);
    if (!sequence.fold_due()) return;
    std::vector<state::PartView> views;
    for (int64_t p = 0; p < layout.parts(); ++p) views.push_back(sequence.part_view(p));
    mixer->fold(context, views);
    sequence.finish_fold();
  }

  // Feeds tokens in chunks of `chunk` (the whole at once if 0); returns all rows.
  Rows feed(state::SequenceState& sequence, const std::vector<int32_t>& tokens, int64_t chunk = 0) {
    Rows all;
    const auto total = static_cast<int64_t>(tokens.size());
    if (chunk <= 0) chunk = std::max<int64_t>(total, 1);
    for (int64_t at = 0; at < total; at += chunk) {
      const int64_t end = std::min(total, at + chunk);
      auto rows = forward({{&sequence, {tokens.begin() + at, tokens.begin() + end}, 0, {}}});
      commit(sequence);
      all.insert(all.end(), rows[0].begin(), rows[0].end());
    }
    return all;
  }

  state::BlockPool blocks;
  ThreadPool pool;
  backend::Arena scratch;
  backend::Context context;
  std::unique_ptr<mixers::MixerDesign> design;
  state::StateLayout layout;
  std::unique_ptr<mixers::Mixer> mixer;
  int64_t width = 0;
  float input_scale = 1;
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
  for (size_t row = 0; row < a.size(); ++row)
    for (size_t i = 0; i < a[row].size(); ++i)
      if (std::memcmp(&a[row][i], &b[row][i], sizeof(float)) != 0)
        return ::testing::AssertionFailure()
               << "row " << row << " value " << i << ": " << a[row][i] << " against " << b[row][i];
  return ::testing::AssertionSuccess();
}

}  // namespace heddle::test
