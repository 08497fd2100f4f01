#include "ops/conv/causal_conv.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <span>

#include "backend/target.h"
#include "base/rng.h"
#include "state/sequence_state.h"

namespace heddle::ops {
namespace {

using backend::KernelSet;
using Row = std::vector<float>;
using Rows = std::vector<Row>;

struct Shape {
  int64_t channels;
  int64_t taps;
  bool bias;
  bool silu;
};
const Shape kShapes[] = {
    {16, 4, false, true}, {37, 3, true, false}, {200, 2, false, false}, {5, 6, true, true}};

struct Step {
  state::SequenceState* sequence = nullptr;
  std::vector<int32_t> tokens;
  int64_t drafts = 0;
  std::vector<int32_t> parents;
};

class ConvRig {
 public:
  ConvRig(const Shape& shape, KernelSet kernels, int threads)
      : shape_(shape), pool_(threads), context_{pool_, scratch_, kernels} {
    Rng rng(5);
    weights.resize(static_cast<size_t>(shape.taps * shape.channels));
    bias.resize(static_cast<size_t>(shape.channels));
    for (float& value : weights) value = rng.normal();
    for (float& value : bias) value = rng.normal();
    layout = *state::StateLayout::make({{causal_conv_part("conv", shape.channels, shape.taps)}});
    blocks.set_poison(true);
  }

  state::SequenceState sequence() { return state::SequenceState(layout, blocks); }

  Row input(int32_t token) const {
    Rng rng(static_cast<uint64_t>(token));
    Row x(static_cast<size_t>(shape_.channels));
    for (float& value : x) value = rng.normal();
    return x;
  }

  Rows forward(const std::vector<Step>& steps) {
    constexpr int64_t kGap = 3;  // strides wider than the rows
    const int64_t stride = shape_.channels + kGap;
    std::vector<state::Segment> segments;
    std::vector<state::PartView> views;
    std::vector<float> x;
    for (const Step& step : steps) {
      state::Segment segment;
      segment.row = static_cast<int64_t>(x.size()) / stride;
      segment.start = step.sequence->position();
      segment.length = static_cast<int64_t>(step.tokens.size());
      segment.drafts = step.drafts;
      segment.parents = step.parents;
      segments.push_back(segment);
      step.sequence->begin_step(segment.committed(), segment.drafts, segment.parents);
      views.push_back(step.sequence->part_view(0));
      for (const int32_t token : step.tokens) {
        const Row row = input(token);
        x.insert(x.end(), row.begin(), row.end());
        x.insert(x.end(), kGap, NAN);
      }
    }
    state::BatchView batch;
    batch.tokens = static_cast<int64_t>(x.size()) / stride;
    batch.segments = segments;
    const state::StateView state{views, 1};
    std::vector<float> y(x.size());
    std::memset(y.data(), 0xff, y.size() * sizeof(float));
    CausalConvArgs args;
    args.batch = &batch;
    args.state = &state;
    args.channels = shape_.channels;
    args.taps = shape_.taps;
    args.weights = weights.data();
    args.bias = shape_.bias ? bias.data() : nullptr;
    args.silu = shape_.silu;
    args.x = x.data();
    args.x_stride = stride;
    args.y = y.data();
    args.y_stride = stride;
    causal_conv(context_, args);
    Rows rows;
    for (int64_t t = 0; t < batch.tokens; ++t) {
      rows.emplace_back(y.begin() + t * stride, y.begin() + t * stride + shape_.channels);
      for (int64_t i = 0; i < kGap; ++i)
        EXPECT_TRUE(std::isnan(y[static_cast<size_t>(t * stride + shape_.channels + i)]));
    }
    return rows;
  }

  Rows feed(state::SequenceState& sequence, std::span<const int32_t> tokens, size_t chunk) {
    Rows result;
    for (size_t i = 0; i < tokens.size(); i += chunk) {
      const auto part = tokens.subspan(i, std::min(chunk, tokens.size() - i));
      for (Row& row : forward({{&sequence, {part.begin(), part.end()}}}))
        result.push_back(std::move(row));
      sequence.commit();
    }
    return result;
  }

  state::StateLayout layout;
  state::BlockPool blocks;
  std::vector<float> weights, bias;

 private:
  Shape shape_;
  ThreadPool pool_;
  backend::Arena scratch_;
  backend::Context context_;
};

std::vector<int32_t> random_tokens(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.below(1 << 20)));
  return tokens;
}

void expect_equal_bits(const Rows& a, const Rows& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t)
    ASSERT_EQ(std::memcmp(a[t].data(), b[t].data(), a[t].size() * sizeof(float)), 0) << t;
}

// The sum as written in the header, in precision T, over whole sequences.
template <class T>
Rows direct(const ConvRig& rig, const Shape& shape, const std::vector<int32_t>& tokens) {
  Rows result, inputs;
  for (size_t t = 0; t < tokens.size(); ++t) {
    inputs.push_back(rig.input(tokens[t]));
    Row y;
    for (size_t c = 0; c < static_cast<size_t>(shape.channels); ++c) {
      T sum = shape.bias ? T(rig.bias[c]) : T(0);
      for (size_t back = 0; back < static_cast<size_t>(shape.taps) && back <= t; ++back) {
        const size_t tap = static_cast<size_t>(shape.taps) - 1 - back;
        sum +=
            T(rig.weights[tap * static_cast<size_t>(shape.channels) + c]) * T(inputs[t - back][c]);
      }
      y.push_back(static_cast<float>(shape.silu ? sum / (T(1) + std::exp(-sum)) : sum));
    }
    result.push_back(std::move(y));
  }
  return result;
}

double distance(const Rows& a, const Rows& b) {
  double error = 0, norm = 0;
  for (size_t t = 0; t < a.size(); ++t)
    for (size_t i = 0; i < a[t].size(); ++i) {
      error += std::pow(static_cast<double>(a[t][i]) - static_cast<double>(b[t][i]), 2);
      norm += std::pow(static_cast<double>(b[t][i]), 2);
    }
  return std::sqrt(error / norm);
}

class CausalConv : public testing::TestWithParam<KernelSet> {};
INSTANTIATE_TEST_SUITE_P(Kernels, CausalConv, testing::Values(KernelSet::reference, KernelSet::cpu),
                         [](const auto& param) {
                           return param.param == KernelSet::cpu ? "cpu" : "reference";
                         });

TEST_P(CausalConv, FollowsTheSum) {
  const std::vector<int32_t> tokens = random_tokens(40, 1);
  for (const Shape& shape : kShapes) {
    ConvRig rig(shape, GetParam(), 2);
    state::SequenceState sequence = rig.sequence();
    const Rows exact = direct<double>(rig, shape, tokens);
    EXPECT_LE(distance(rig.feed(sequence, tokens, 40), exact),
              2 * distance(direct<float>(rig, shape, tokens), exact));
  }
}

TEST_P(CausalConv, ChunksThreadsAndTargetsKeepTheBits) {
  const std::vector<int32_t> tokens = random_tokens(70, 2);
  for (const Shape& shape : kShapes) {
    ConvRig whole(shape, GetParam(), 1);
    state::SequenceState one = whole.sequence();
    const Rows expected = whole.feed(one, tokens, 70);
    for (const std::string_view target : backend::supported_targets()) {
      ASSERT_TRUE(backend::use_target(target).has_value());
      for (const size_t chunk : {1, 2, 3, 7, 64}) {
        ConvRig rig(shape, GetParam(), 3);
        state::SequenceState sequence = rig.sequence();
        expect_equal_bits(rig.feed(sequence, tokens, chunk), expected);
      }
    }
    ASSERT_TRUE(backend::use_target("auto").has_value());
  }
}

TEST_P(CausalConv, BatchesOfSequencesEqualEachAlone) {
  const std::vector<size_t> lengths = {1, 0, 9, 3};
  for (const Shape& shape : kShapes) {
    ConvRig rig(shape, GetParam(), 2);
    std::vector<state::SequenceState> sequences;
    std::vector<Step> steps;
    Rows expected;
    for (size_t n = 0; n < lengths.size(); ++n) {
      const std::vector<int32_t> tokens = random_tokens(5 + static_cast<int64_t>(lengths[n]), n);
      state::SequenceState alone = rig.sequence();
      const Rows rows = rig.feed(alone, tokens, 100);
      expected.insert(expected.end(), rows.begin() + 5, rows.end());
      sequences.push_back(rig.sequence());
      rig.feed(sequences.back(), std::span(tokens).first(5), 5);
      steps.push_back({nullptr, {tokens.begin() + 5, tokens.end()}});
    }
    for (size_t n = 0; n < steps.size(); ++n) steps[n].sequence = &sequences[n];
    expect_equal_bits(rig.forward(steps), expected);
  }
}

// Every path of a tree alone, and the accepted path followed by more tokens.
TEST_P(CausalConv, TreesOfDraftsFollowAncestors) {
  const std::vector<int32_t> tree = {-1, -1, 0, 0, 1, 2, 4, 5, 7};
  for (const Shape& shape : kShapes)
    for (const int64_t before : {0, 1, 5, 64})
      for (const int64_t committed : {0, 1, 3}) {
        ConvRig rig(shape, GetParam(), 2);
        const std::vector<int32_t> prefix = random_tokens(before, 3);
        std::vector<int32_t> tokens = random_tokens(committed + 9, 4);
        std::vector<int32_t> parents;
        for (const int32_t p : tree) parents.push_back(p + static_cast<int32_t>(committed));
        state::SequenceState sequence = rig.sequence();
        rig.feed(sequence, prefix, 2);
        const state::Snapshot start = sequence.snapshot();
        const Rows rows = rig.forward({{&sequence, tokens, 9, parents}});
        std::vector<int32_t> accepted, line;
        for (int32_t leaf = 0; leaf < 9; ++leaf) {
          accepted.clear();
          for (int32_t d = leaf; d >= 0; d = tree[static_cast<size_t>(d)])
            accepted.insert(accepted.begin(), d);
          line.assign(tokens.begin(), tokens.begin() + committed);
          for (const int32_t d : accepted)
            line.push_back(tokens[static_cast<size_t>(committed + d)]);
          state::SequenceState alone(rig.layout, rig.blocks, start);
          expect_equal_bits({rows[static_cast<size_t>(committed + leaf)]},
                            {rig.feed(alone, line, 100).back()});
        }
        sequence.commit(accepted);
        const std::vector<int32_t> more = random_tokens(5, 5);
        const size_t old = line.size();
        line.insert(line.end(), more.begin(), more.end());
        state::SequenceState alone(rig.layout, rig.blocks, start);
        Rows expected = rig.feed(alone, line, 100);
        expected.erase(expected.begin(), expected.begin() + static_cast<int64_t>(old));
        expect_equal_bits(rig.feed(sequence, more, 1), expected);
      }
}

}  // namespace
}  // namespace heddle::ops
