#pragma once
// For the tests of this folder: the sequence kernel over real sequence states, fed with rows of
// projections that are a pure function of (token, position), in blocks poisoned with NaN.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "base/rng.h"
#include "mixers/gated_delta_net/mixer.h"
#include "state/sequence_state.h"

namespace heddle::mixers::gated_delta_net {

struct Weights {
  std::vector<float> conv, decay, dt_bias, norm;
};

inline Sizes make_sizes(int64_t key_heads, int64_t value_heads, int64_t key_dim, int64_t value_dim,
                        bool tiled = false, int64_t taps = 4) {
  Sizes s;
  s.d_model = 16;
  s.key_heads = key_heads;
  s.value_heads = value_heads;
  s.key_dim = key_dim;
  s.value_dim = value_dim;
  s.tiled = tiled;
  s.taps = taps;
  return s;
}

// How a row's gates and inputs are spread.
struct Inputs {
  float scale = 1;     // of q, k, v, z
  float strength = 0;  // beta = sigmoid(strength + noise)
  float forget = 0;    // a = forget + noise
  float noise = 1;
};

struct Step {
  state::SequenceState* sequence = nullptr;
  std::vector<int32_t> tokens;
  int64_t drafts = 0;
  std::vector<int32_t> parents;
};

using Row = std::vector<float>;
using Rows = std::vector<Row>;

// The arguments of a kernel that come from sizes and weights; both must outlive them.
inline MixArgs weight_args(const Sizes& sizes, const Weights& weights) {
  MixArgs args;
  args.sizes = &sizes;
  args.conv = weights.conv.data();
  args.decay = weights.decay.data();
  args.dt_bias = weights.dt_bias.data();
  args.norm = weights.norm.data();
  return args;
}

class DeltaRig {
 public:
  DeltaRig(const Sizes& sizes, backend::KernelSet kernels, int threads, Inputs inputs = {})
      : s(sizes), pool(threads), context{pool, scratch, kernels}, inputs_(inputs) {
    Rng rng(11);
    const auto fill = [&rng](std::vector<float>& x, int64_t count, float mean, float gain) {
      x.resize(static_cast<size_t>(count));
      for (float& value : x) value = mean + gain * rng.normal();
    };
    fill(weights.conv, s.taps * s.channels(), 0.0f, 0.5f);
    fill(weights.dt_bias, s.value_heads, -1.0f, 1.0f);
    fill(weights.norm, s.value_dim, 1.0f, 0.2f);
    fill(weights.decay, s.value_heads, 0.0f, 1.0f);
    for (float& value : weights.decay) value = -std::exp(value);
    layout.entries = {{0, ops::causal_conv_part("conv", s.channels(), s.taps)}, {0, delta_part(s)}};
    layout.first_part = {0, 2};
    EXPECT_TRUE(layout.validate().has_value());
    blocks.set_poison(true);
  }

  state::SequenceState sequence() { return state::SequenceState(layout, blocks); }

  Row input(int32_t token, int64_t position) const {
    Rng rng(mix64(static_cast<uint64_t>(token) * 1000003 + static_cast<uint64_t>(position)));
    Row x(static_cast<size_t>(s.projected()));
    for (float& value : x) value = inputs_.scale * rng.normal();
    const auto gates = static_cast<size_t>(s.channels() + s.value_width());
    for (size_t h = 0; h < static_cast<size_t>(s.value_heads); ++h) {
      x[gates + h] = inputs_.strength + inputs_.noise * rng.normal();
      x[gates + static_cast<size_t>(s.value_heads) + h] =
          inputs_.forget + inputs_.noise * rng.normal();
    }
    return x;
  }

  // Runs a step and commits nothing. Output rows of all parts in order.
  Rows forward(const std::vector<Step>& steps) {
    std::vector<state::Segment> segments;
    std::vector<int32_t> positions;
    std::vector<float> x;
    std::vector<state::PartView> views;
    for (const Step& step : steps) {
      state::Segment segment;
      segment.row = static_cast<int64_t>(positions.size());
      segment.start = step.sequence->position();
      segment.length = static_cast<int64_t>(step.tokens.size());
      segment.drafts = step.drafts;
      segment.parents = step.parents;
      step.sequence->begin_step(segment.committed(), segment.drafts);
      std::vector<int64_t> own;
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t parent = segment.parent(i);
        own.push_back(parent < 0 ? segment.start : own[static_cast<size_t>(parent)] + 1);
        positions.push_back(static_cast<int32_t>(own.back()));
        const Row row = input(step.tokens[static_cast<size_t>(i)], own.back());
        x.insert(x.end(), row.begin(), row.end());
      }
      segments.push_back(segment);
      views.push_back(step.sequence->part_view(0));
      views.push_back(step.sequence->part_view(1));
    }
    return run(segments, positions, x, views);
  }

  MixArgs weight_args() const { return gated_delta_net::weight_args(s, weights); }

  // Feeds `tokens` in chunks and commits them.
  Rows feed(state::SequenceState& sequence, std::span<const int32_t> tokens, int64_t chunk) {
    Rows result;
    for (size_t i = 0; i < tokens.size(); i += static_cast<size_t>(chunk)) {
      const auto part = tokens.subspan(i, std::min(tokens.size() - i, static_cast<size_t>(chunk)));
      for (Row& row : forward({{&sequence, {part.begin(), part.end()}}}))
        result.push_back(std::move(row));
      commit(sequence);
    }
    return result;
  }

  void commit(state::SequenceState& sequence, std::span<const int32_t> accepted = {}) {
    sequence.commit(accepted);
    if (!sequence.fold_due()) return;
    const state::PartView part = sequence.part_view(kDeltaPart);
    context.reference() ? ref::fold(context, s, part) : cpu::fold(context, s, part);
    sequence.finish_fold();
  }

  const Sizes s;
  Weights weights;
  ThreadPool pool;
  backend::Arena scratch;
  backend::Context context;
  state::StateLayout layout;
  state::BlockPool blocks;

 private:
  Rows run(const std::vector<state::Segment>& segments, const std::vector<int32_t>& positions,
           const std::vector<float>& x, const std::vector<state::PartView>& views) {
    state::BatchView batch;
    batch.tokens = static_cast<int64_t>(positions.size());
    batch.segments = segments;
    batch.positions = positions;
    const state::StateView state{views, 2};
    MixArgs args = weight_args();
    const auto width = static_cast<size_t>(s.value_width());
    std::vector<float> y(positions.size() * width + 1);
    std::memset(y.data(), 0xff, y.size() * sizeof(float));
    args.batch = &batch;
    args.state = &state;
    args.projected = x.data();
    args.y = y.data();
    context.reference() ? ref::mix(context, args) : cpu::mix(context, args);
    EXPECT_TRUE(std::isnan(y.back())) << "written after the output";
    Rows rows;
    for (size_t t = 0; t < positions.size(); ++t) {
      const auto begin = y.begin() + static_cast<int64_t>(t * width);
      rows.emplace_back(begin, begin + static_cast<int64_t>(width));
      for (float value : rows.back()) EXPECT_TRUE(std::isfinite(value)) << "row " << t;
    }
    return rows;
  }

  Inputs inputs_;
};

inline std::vector<int32_t> random_tokens(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.below(50000)));
  return tokens;
}

inline bool equal_bits(const Row& a, const Row& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline void expect_equal_bits(const Rows& a, const Rows& b, const char* what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t t = 0; t < a.size(); ++t)
    ASSERT_TRUE(equal_bits(a[t], b[t])) << what << ": row " << t;
}

}  // namespace heddle::mixers::gated_delta_net
