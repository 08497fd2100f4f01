#pragma once
// One mixer with random weights over real sequence states: what the contract suite drives.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/weight_memory.h"
#include "base/rng.h"
#include "state/sequence_state.h"
#include "sublayer/sublayer.h"
#include "test/support/step.h"

namespace heddle::test {

// Random weights of a design: matrices of unit gain; vectors near one (norms), convolutions of unit
// gain, and for gates the ranges that real models use.
class RandomWeights : public sublayer::WeightSource {
 public:
  RandomWeights(const sublayer::Design& design, uint64_t seed) {
    Rng rng(seed);
    for (const sublayer::WeightSpec& spec : design.weights()) {
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

class MixerRig {
 public:
  MixerRig(const sublayer::Kind& kind, const sublayer::Case& mixer_case, backend::KernelSet kernels,
           int threads)
      : pool(threads), context{pool, scratch, kernels} {
    sublayer::Params params = mixer_case.params;
    auto made = kind.design(params);
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().message);
    design = std::move(*made);
    layout.first_part.push_back(0);
    for (const state::StatePart& part : design->state_parts()) layout.entries.push_back({0, part});
    layout.first_part.push_back(layout.parts());
    RandomWeights weights(*design, 7);
    auto bound = design->bind(pool, weights, {.memory = &weight_memory});
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
    Rng rng = row_rng(token, position);
    std::vector<float> x(static_cast<size_t>(width));
    for (float& value : x) value = rng.normal() * input_scale;
    return x;
  }

  // Begins a step of every part and runs the mixer; commits nothing. Returns the output rows of
  // each part.
  std::vector<Rows> forward(const std::vector<StepPart>& parts) {
    const StepLayout step(parts, layout.parts(), [this](int32_t token, int64_t position) {
      return input(token, position);
    });
    OutputRows y(step.batch().tokens, width);
    if (step.batch().tokens > 0)
      mixer->forward(context, step.batch(), step.x(), step.state(), y.data());
    const Rows rows = y.take();
    std::vector<Rows> result;
    auto begin = rows.begin();
    for (const StepPart& part : parts) {
      const auto end = begin + static_cast<int64_t>(part.tokens.size());
      result.emplace_back(begin, end);
      begin = end;
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
  backend::WeightMemory weight_memory;
  ThreadPool pool;
  backend::Arena scratch;
  backend::Context context;
  std::unique_ptr<sublayer::Design> design;
  state::StateLayout layout;
  std::unique_ptr<sublayer::SubLayer> mixer;
  int64_t width = 0;
  float input_scale = 1;
};

}  // namespace heddle::test
