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
#include "sublayer/random_weights.h"
#include "sublayer/sublayer.h"
#include "test/support/step.h"

namespace heddle::test {

class MixerRig {
 public:
  MixerRig(const sublayer::Kind& kind, sublayer::Case from, backend::KernelSet kernels, int threads)
      : pool(threads), context{pool, scratch, kernels}, mixer_case(std::move(from)) {
    auto made = sublayer::make_design(kind, mixer_case.params, mixer_case.precision);
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().message);
    design = std::move(*made);
    layout = *state::StateLayout::make({design->state_parts()});
    sublayer::RandomWeights drawn = weights();
    auto bound = design->bind(pool, drawn, {.memory = &weight_memory});
    EXPECT_TRUE(bound.has_value()) << (bound ? "" : bound.error().message);
    mixer = std::move(*bound);
    width = *mixer_case.params.integer("d_model");
    blocks.set_poison(true);
  }

  // What the mixer was made with.
  sublayer::RandomWeights weights() const { return {*design, 7, mixer_case}; }

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
    const StepLayout step(
        parts, layout, [this](int32_t token, int64_t position) { return input(token, position); });
    OutputRows y(step.batch().tokens, width);
    if (step.batch().tokens > 0)
      mixer->forward(context, step.batch(), step.x(width), step.state(), y.rows());
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

  // Commits with the accepted drafts.
  void commit(state::SequenceState& sequence, const std::vector<int32_t>& accepted = {}) {
    sequence.commit(accepted);
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
  sublayer::Case mixer_case;
  std::unique_ptr<sublayer::Design> design;
  state::StateLayout layout;
  std::unique_ptr<sublayer::SubLayer> mixer;
  int64_t width = 0;
  float input_scale = 1;
};

}  // namespace heddle::test
