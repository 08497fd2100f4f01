#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "backend/target.h"
#include "mixers/gated_delta_net/mixer.h"
#include "mixers/gated_delta_net/recurrence.h"
#include "sublayer/kind_table.h"
#include "test/support/mixer_rig.h"

namespace heddle::mixers::gated_delta_net {
namespace {

using backend::KernelSet;
using test::random_tokens;
using test::Rows;
using test::same_bits;
using test::StepPart;

struct Weights {
  std::vector<float> conv, decay, dt_bias, norm;
};

Sizes make_sizes(int64_t key_heads, int64_t value_heads, int64_t key_dim, int64_t value_dim,
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

// The arguments of a kernel that come from sizes and weights; both must outlive them.
MixArgs weight_args(const Sizes& sizes, const Weights& weights) {
  MixArgs args;
  args.sizes = &sizes;
  args.conv = weights.conv.data();
  args.decay = weights.decay.data();
  args.dt_bias = weights.dt_bias.data();
  args.norm = weights.norm.data();
  return args;
}

// The sequence kernel over real sequence states, fed with rows of projections.
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

  std::vector<float> input(int32_t token, int64_t position) const {
    Rng rng = test::row_rng(token, position);
    std::vector<float> x(static_cast<size_t>(s.projected()));
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
  Rows forward(const std::vector<StepPart>& parts) {
    const test::StepLayout step(
        parts, 2, [this](int32_t token, int64_t position) { return input(token, position); });
    test::OutputRows y(step.batch().tokens, s.value_width());
    const state::StateView state = step.state();
    MixArgs args = weight_args();
    args.batch = &step.batch();
    args.state = &state;
    args.projected = step.x();
    args.y = y.data();
    context.reference() ? ref::mix(context, args) : cpu::mix(context, args);
    return y.take();
  }

  MixArgs weight_args() const { return gated_delta_net::weight_args(s, weights); }

  // Feeds `tokens` in chunks and commits them.
  Rows feed(state::SequenceState& sequence, std::span<const int32_t> tokens, int64_t chunk) {
    Rows result;
    for (size_t i = 0; i < tokens.size(); i += static_cast<size_t>(chunk)) {
      const auto part = tokens.subspan(i, std::min(tokens.size() - i, static_cast<size_t>(chunk)));
      for (auto& row : forward({{&sequence, {part.begin(), part.end()}, 0, {}}}))
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
  Inputs inputs_;
};

template <class T>
Rows recurrence(const DeltaRig& rig, const std::vector<int32_t>& tokens) {
  std::vector<std::vector<T>> inputs;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const std::vector<float> row = rig.input(tokens[t], static_cast<int64_t>(t));
    inputs.emplace_back(row.begin(), row.end());
  }
  const MixArgs args = rig.weight_args();
  Rows result;
  for (const auto& row : recurrence<T>(args, inputs)) result.emplace_back(row.begin(), row.end());
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

struct Shape {
  const char* name;
  Sizes sizes;
};

std::vector<Shape> shapes() {
  return {{"small", make_sizes(2, 2, 16, 16)},
          {"grouped_odd", make_sizes(2, 4, 24, 40)},
          {"tiled_odd", make_sizes(3, 6, 20, 9, true)},
          {"one_head", make_sizes(1, 1, 32, 80, false, 3)}};
}

Rows straight(DeltaRig& rig, const std::vector<int32_t>& tokens) {
  state::SequenceState sequence = rig.sequence();
  return rig.feed(sequence, tokens, static_cast<int64_t>(tokens.size()));
}

// Error over budget: the budget is twice what the plain recurrence in float32 loses.
TEST(GatedDeltaNet, BothKernelSetsFollowTheRecurrence) {
  const std::vector<int32_t> tokens = random_tokens(150, 3);
  const std::vector<std::pair<const char*, Inputs>> spreads = {
      {"plain", {}},
      {"large", {.scale = 30}},
      {"keeps everything", {.forget = -20}},
      {"forgets everything", {.forget = 60}},
      {"forgets now and then", {.forget = -10, .noise = 12}},
      {"writes nothing", {.strength = -60}},
      {"writes fully", {.strength = 40}}};
  for (const Shape& shape : shapes())
    for (const auto& [name, inputs] : spreads) {
      DeltaRig ref(shape.sizes, KernelSet::reference, 1, inputs);
      DeltaRig cpu(shape.sizes, KernelSet::cpu, 2, inputs);
      const Rows exact = recurrence<double>(ref, tokens);
      const double budget = 2 * distance(recurrence<float>(ref, tokens), exact);
      const double of_ref = distance(straight(ref, tokens), exact);
      const double of_cpu = distance(straight(cpu, tokens), exact);
      EXPECT_LE(of_ref, budget) << shape.name << ", " << name;
      EXPECT_LE(of_cpu, budget) << shape.name << ", " << name;
      printf("%-12s %-22s error/budget ref %.2f cpu %.2f (budget %.1e)\n", shape.name, name,
             of_ref / budget, of_cpu / budget, budget);
    }
}

class GatedDeltaNetBits : public testing::TestWithParam<KernelSet> {
 protected:
  bool reference() const { return GetParam() == KernelSet::reference; }
};
INSTANTIATE_TEST_SUITE_P(Kernels, GatedDeltaNetBits,
                         testing::Values(KernelSet::reference, KernelSet::cpu),
                         [](const auto& param) {
                           return param.param == KernelSet::cpu ? "cpu" : "reference";
                         });

TEST_P(GatedDeltaNetBits, AnyChunkingEqualsOnePass) {
  for (const Shape& shape : shapes()) {
    const std::vector<int32_t> tokens = random_tokens(131, 4);
    DeltaRig rig(shape.sizes, GetParam(), 1);
    const Rows whole = straight(rig, tokens);
    for (const int64_t chunk : {1, 7, 31, 32, 33, 63, 64, 65}) {
      state::SequenceState sequence = rig.sequence();
      EXPECT_TRUE(same_bits(rig.feed(sequence, tokens, chunk), whole))
          << shape.name << " chunk " << chunk;
    }
  }
}

TEST_P(GatedDeltaNetBits, AnyBatchAndThreadCountEqualsAlone) {
  for (const Shape& shape : shapes()) {
    std::vector<std::vector<int32_t>> tokens;
    std::vector<Rows> alone;
    const std::vector<int64_t> before = {0, 5, 31, 32, 60};
    const std::vector<int64_t> chunk = {40, 1, 1, 0, 70};
    for (size_t n = 0; n < before.size(); ++n)
      tokens.push_back(random_tokens(before[n] + chunk[n], 20 + n));
    DeltaRig first(shape.sizes, GetParam(), 1);
    for (const auto& t : tokens) alone.push_back(straight(first, t));
    for (const int threads : {1, 2, 3}) {
      DeltaRig rig(shape.sizes, GetParam(), threads);
      std::vector<state::SequenceState> sequences;
      for (size_t n = 0; n < tokens.size(); ++n) {
        sequences.push_back(rig.sequence());
        rig.feed(sequences.back(), std::span(tokens[n]).first(static_cast<size_t>(before[n])), 16);
      }
      std::vector<StepPart> steps;
      Rows expected;
      for (size_t n = 0; n < tokens.size(); ++n) {
        steps.push_back({&sequences[n], {tokens[n].begin() + before[n], tokens[n].end()}, 0, {}});
        expected.insert(expected.end(), alone[n].begin() + before[n], alone[n].end());
      }
      EXPECT_TRUE(same_bits(rig.forward(steps), expected)) << shape.name;
    }
  }
}

// One decode step of a single sequence with more threads than heads: panels are split.
TEST_P(GatedDeltaNetBits, SplitHeadsEqualWholeHeads) {
  const std::vector<int32_t> tokens = random_tokens(70, 5);
  for (const Shape& shape : shapes()) {
    DeltaRig one(shape.sizes, GetParam(), 1);
    DeltaRig many(shape.sizes, GetParam(), 6);
    state::SequenceState sequence = many.sequence();
    EXPECT_TRUE(same_bits(many.feed(sequence, tokens, 3), straight(one, tokens))) << shape.name;
  }
}

// A tree of drafts after `committed` tokens of a step, and every root-to-leaf path of it alone.
void check_tree(const Sizes& sizes, KernelSet kernels, int64_t before, int64_t committed,
                const std::vector<int32_t>& shape) {
  DeltaRig rig(sizes, kernels, 2);
  const std::vector<int32_t> prefix = random_tokens(before, 6);
  std::vector<int32_t> tokens = random_tokens(committed, 7);
  const std::vector<int32_t> drafts = random_tokens(static_cast<int64_t>(shape.size()), 8);
  tokens.insert(tokens.end(), drafts.begin(), drafts.end());
  std::vector<int32_t> parents;  // rows of the segment; -1 in `shape`: the last committed row
  for (const int32_t p : shape) parents.push_back(p + static_cast<int32_t>(committed));
  state::SequenceState sequence = rig.sequence();
  rig.feed(sequence, prefix, 9);
  const state::Snapshot start = sequence.snapshot();
  const Rows tree = rig.forward({{&sequence, tokens, static_cast<int64_t>(shape.size()), parents}});
  for (size_t leaf = 0; leaf < shape.size(); ++leaf) {
    std::vector<int32_t> path;
    for (auto d = static_cast<int32_t>(leaf); d >= 0; d = shape[static_cast<size_t>(d)])
      path.insert(path.begin(), d);
    std::vector<int32_t> line(tokens.begin(), tokens.begin() + committed);
    for (const int32_t d : path) line.push_back(drafts[static_cast<size_t>(d)]);
    state::SequenceState alone(rig.layout, rig.blocks, start);
    const Rows expected = rig.feed(alone, line, 4);
    EXPECT_TRUE(same_bits({tree[static_cast<size_t>(committed) + leaf]}, {expected.back()}))
        << "before " << before << " committed " << committed << " draft " << leaf;
  }
  // The deepest path is accepted and the sequence goes on as if there had been no drafts.
  std::vector<int32_t> accepted;
  for (auto d = static_cast<int32_t>(shape.size()) - 1; d >= 0; d = shape[static_cast<size_t>(d)])
    accepted.insert(accepted.begin(), d);
  rig.commit(sequence, accepted);
  std::vector<int32_t> line(tokens.begin(), tokens.begin() + committed);
  for (const int32_t d : accepted) line.push_back(drafts[static_cast<size_t>(d)]);
  const std::vector<int32_t> more = random_tokens(40, 9);
  line.insert(line.end(), more.begin(), more.end());
  state::SequenceState alone(rig.layout, rig.blocks, start);
  Rows expected = rig.feed(alone, line, 64);
  expected.erase(expected.begin(), expected.end() - 40);
  EXPECT_TRUE(same_bits(rig.feed(sequence, more, 40), expected)) << "after acceptance";
}

TEST_P(GatedDeltaNetBits, TreesOfDraftsEqualEachPathAlone) {
  const std::vector<int32_t> tree = {-1, -1, 0, 0, 1, 2, 4, 5};
  const std::vector<int32_t> chain = {-1, 0, 1, 2, 3};
  for (const Shape& shape : shapes()) {
    check_tree(shape.sizes, GetParam(), 37, 1, tree);
    check_tree(shape.sizes, GetParam(), 30, 2, tree);  // the committed rows complete a block
    check_tree(shape.sizes, GetParam(), 20, 4, tree);  // drafts up to the boundary
    check_tree(shape.sizes, GetParam(), 0, 1, tree);
    check_tree(shape.sizes, GetParam(), 26, 1, chain);  // acceptance completes a block
    check_tree(shape.sizes, GetParam(), 58, 1, chain);
    check_tree(shape.sizes, GetParam(), 10, 60, chain);
  }
}

TEST_P(GatedDeltaNetBits, RejectedDraftsLeaveNoTrace) {
  for (const Shape& shape : shapes()) {
    DeltaRig rig(shape.sizes, GetParam(), 2);
    const std::vector<int32_t> tokens = random_tokens(100, 10);
    const Rows expected = straight(rig, tokens);
    state::SequenceState sequence = rig.sequence();
    Rows rows;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t room = std::min<int64_t>(sequence.draft_room(1), 4);
      std::vector<int32_t> step = random_tokens(1 + room, 1000 + i);
      step[0] = tokens[i];
      rows.push_back(rig.forward({{&sequence, step, room, {}}})[0]);
      rig.commit(sequence);
    }
    EXPECT_TRUE(same_bits(rows, expected)) << shape.name;
  }
}

TEST_P(GatedDeltaNetBits, ExtremeGatesKeepTheContract) {
  const std::vector<int32_t> tokens = random_tokens(100, 12);
  for (const Inputs& inputs :
       {Inputs{.scale = 1e4f}, Inputs{.forget = 1e4f}, Inputs{.forget = -1e4f, .noise = 1},
        Inputs{.strength = 200, .forget = -60}, Inputs{.strength = -200},
        Inputs{.forget = 0, .noise = 300}, Inputs{.scale = 0}}) {
    DeltaRig rig(make_sizes(2, 4, 24, 40), GetParam(), 2, inputs);
    const Rows whole = straight(rig, tokens);
    state::SequenceState sequence = rig.sequence();
    EXPECT_TRUE(same_bits(rig.feed(sequence, tokens, 7), whole)) << "extreme";
  }
}

TEST(GatedDeltaNet, EveryTargetGivesTheSameBits) {
  const std::vector<int32_t> tokens = random_tokens(80, 13);
  for (const Shape& shape : shapes()) {
    std::vector<Rows> rows;
    for (const std::string_view target : backend::supported_targets()) {
      ASSERT_TRUE(backend::use_target(target).has_value());
      DeltaRig rig(shape.sizes, KernelSet::cpu, 2);
      rows.push_back(straight(rig, tokens));
    }
    ASSERT_TRUE(backend::use_target("auto").has_value());
    for (const Rows& other : rows) EXPECT_TRUE(same_bits(other, rows[0])) << shape.name;
  }
}

// The whole sub-layer, projections included: [q|k|v], z, b and a in their places.
template <class T>
Rows whole_mixer(const test::MixerRig& rig, const Sizes& s, const std::vector<int32_t>& tokens) {
  test::RandomWeights source(*rig.design, 7);
  const auto multiply = [&](const char* name, const std::vector<T>& x, std::vector<T>& y) {
    const ops::MatrixSource matrix = *source.matrix(name);
    const auto* w = reinterpret_cast<const float*>(matrix.data);
    for (int64_t r = 0; r < matrix.rows; ++r) {
      T sum = 0;
      for (size_t c = 0; c < x.size(); ++c)
        sum += T(w[static_cast<size_t>(r) * x.size() + c]) * x[c];
      y.push_back(sum);
    }
  };
  Weights weights{ops::transpose_taps(*source.values("conv"), s.channels(), s.taps),
                  *source.values("decay"), *source.values("dt_bias"), *source.values("norm")};
  std::vector<std::vector<T>> inputs;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const std::vector<float> row = rig.input(tokens[t], static_cast<int64_t>(t));
    inputs.emplace_back();
    for (const char* name : {"qkv_proj", "z_proj", "b_proj", "a_proj"})
      multiply(name, {row.begin(), row.end()}, inputs.back());
  }
  const MixArgs args = weight_args(s, weights);
  Rows result;
  for (const auto& mixed : recurrence<T>(args, inputs)) {
    std::vector<T> y;
    multiply("out_proj", mixed, y);
    result.emplace_back(y.begin(), y.end());
  }
  return result;
}

TEST(GatedDeltaNet, TheWholeMixerFollowsItsEquations) {
  const sublayer::Kind& kind = **sublayer::find_kind("gated_delta_net");
  const std::vector<int32_t> tokens = random_tokens(70, 14);
  for (const sublayer::Case& mixer_case : kind.cases()) {
    if (*mixer_case.params.integer("d_model") > 100) continue;
    Sizes s = make_sizes(
        *mixer_case.params.integer("key_heads"), *mixer_case.params.integer("value_heads"),
        *mixer_case.params.integer("key_dim"), *mixer_case.params.integer("value_dim"),
        mixer_case.params.flag_or("tiled", false));
    for (const KernelSet kernels : {KernelSet::reference, KernelSet::cpu}) {
      test::MixerRig rig(kind, mixer_case, kernels, 2);
      const Rows exact = whole_mixer<double>(rig, s, tokens);
      const double budget = 2 * distance(whole_mixer<float>(rig, s, tokens), exact);
      auto sequence = rig.sequence();
      EXPECT_LE(distance(rig.feed(*sequence, tokens, 33), exact), budget) << mixer_case.name;
    }
  }
}

TEST(GatedDeltaNet, RequantisedProjectionsKeepTheGatesApart) {
  const sublayer::Kind& kind = **sublayer::find_kind("gated_delta_net");
  sublayer::Params params = kind.cases()[0].params;
  params.set("d_model", int64_t{64});
  test::MixerRig rig(kind, {"quantised", params}, KernelSet::cpu, 1);
  const int64_t exact_bytes = rig.mixer->weight_bytes();
  test::RandomWeights weights(*rig.design, 7);
  ops::PackOptions options;
  options.quantize = DType::q8_0;
  options.memory = &rig.weight_memory;
  rig.mixer = std::move(*rig.design->bind(rig.pool, weights, options));
  EXPECT_LT(rig.mixer->weight_bytes(), exact_bytes);
  auto whole = rig.sequence(), parts = rig.sequence();
  const std::vector<int32_t> tokens = random_tokens(40, 15);
  EXPECT_TRUE(same_bits(rig.feed(*parts, tokens, 3), rig.feed(*whole, tokens))) << "quantised";
}

TEST(GatedDeltaNet, SizesFromFilesAreRefusedWithTheReason) {
  const sublayer::Kind& kind = **sublayer::find_kind("gated_delta_net");
  const auto reason = [&](const char* name, sublayer::Params::Value value) {
    sublayer::Params params = kind.cases()[0].params;
    params.set(name, std::move(value));
    const auto design = kind.design(params);
    return design ? std::string() : design.error().message;
  };
  EXPECT_THAT(reason("value_heads", int64_t{3}), testing::HasSubstr("multiple of the 2 key heads"));
  EXPECT_THAT(reason("taps", int64_t{1}), testing::HasSubstr("taps is 1"));
  EXPECT_THAT(reason("taps", int64_t{99}), testing::HasSubstr("taps is 99"));
  EXPECT_THAT(reason("key_dim", int64_t{0}), testing::HasSubstr("key_dim is 0"));
  EXPECT_THAT(reason("key_dim", int64_t{1} << 40), testing::HasSubstr("key_dim"));
  EXPECT_THAT(reason("value_dim", int64_t{5000}), testing::HasSubstr("at most 4096"));
  EXPECT_THAT(reason("norm_eps", -1.0), testing::HasSubstr("norm_eps"));
  EXPECT_THAT(reason("d_model", std::string("x")), testing::HasSubstr("d_model"));
}

}  // namespace
}  // namespace heddle::mixers::gated_delta_net
