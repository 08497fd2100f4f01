#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "backend/target.h"
#include "mixers/gated_delta_net/equations.h"
#include "sublayer/kind_table.h"
#include "test/support/fold_rig.h"
#include "test/support/mixer_rig.h"

namespace heddle::mixers::gated_delta_net {
namespace {

using backend::KernelSet;
using test::random_tokens;
using test::Rows;
using test::same_bits;
using test::StepPart;

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

// The sequence kernel over real sequence states, fed with rows of projections.
class DeltaRig : public test::FoldRig {
 public:
  DeltaRig(const Sizes& sizes, backend::KernelSet kernels, int threads, Inputs inputs = {})
      : FoldRig({ops::causal_conv_part("conv", sizes.channels(), sizes.taps),
                 linear::fold_part("delta", sizes)},
                sizes.value_width(), kernels, threads),
        s(sizes),
        inputs_(inputs) {
    Rng rng(11);
    const auto draw = [&rng](int64_t count, float mean, float gain) {
      std::vector<float> x(static_cast<size_t>(count));
      for (float& value : x) value = mean + gain * rng.normal();
      return x;
    };
    weights.conv = stored(draw(s.taps * s.channels(), 0.0f, 0.5f));
    weights.dt_bias = stored(draw(s.value_heads, -1.0f, 1.0f));
    weights.norm = stored(draw(s.value_dim, 1.0f, 0.2f));
    std::vector<float> decay = draw(s.value_heads, 0.0f, 1.0f);
    for (float& value : decay) value = -std::exp(value);
    weights.decay = stored(decay);
  }

  std::vector<float> input(int32_t token, int64_t position) const override {
    Rng rng = test::row_rng(token, position);
    std::vector<float> x(static_cast<size_t>(s.projected()));
    for (float& value : x) value = inputs_.scale * rng.normal();
    for (int64_t h = 0; h < s.value_heads; ++h) {
      x[static_cast<size_t>(s.strength_at(h))] = inputs_.strength + inputs_.noise * rng.normal();
      x[static_cast<size_t>(s.decay_at(h))] = inputs_.forget + inputs_.noise * rng.normal();
    }
    return x;
  }

  const Sizes s;
  Weights weights;

 protected:
  void run(const state::BatchView& batch, const state::StateView& state, const float* x,
           float* y) override {
    MixArgs args(s, weights);
    args.set_step(batch, state, x, y);
    context.reference() ? ref::mix(context, args) : cpu::mix(context, args);
  }

 private:
  tensor::Vector stored(const std::vector<float>& values) {
    return *tensor::Vector::of(values, memory_);
  }

  Inputs inputs_;
  backend::WeightMemory memory_;
};

template <class T>
Rows recurrence(const DeltaRig& rig, const std::vector<int32_t>& tokens) {
  std::vector<std::vector<T>> inputs;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const std::vector<float> row = rig.input(tokens[t], static_cast<int64_t>(t));
    inputs.emplace_back(row.begin(), row.end());
  }
  const MixArgs args(rig.s, rig.weights);
  Rows result;
  for (const auto& row : recurrence<T>(args, inputs)) result.emplace_back(row.begin(), row.end());
  return result;
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
      const double budget = 2 * test::distance(recurrence<float>(ref, tokens), exact);
      const double of_ref = test::distance(ref.straight(tokens), exact);
      const double of_cpu = test::distance(cpu.straight(tokens), exact);
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
    SCOPED_TRACE(shape.name);
    DeltaRig rig(shape.sizes, GetParam(), 1);
    test::check_chunks(rig);
  }
}

TEST_P(GatedDeltaNetBits, AnyBatchAndThreadCountEqualsAlone) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    test::check_batches([&](int threads) { return DeltaRig(shape.sizes, GetParam(), threads); });
  }
}

TEST_P(GatedDeltaNetBits, SplitHeadsEqualWholeHeads) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    test::check_splits([&](int threads) { return DeltaRig(shape.sizes, GetParam(), threads); });
  }
}

TEST_P(GatedDeltaNetBits, TreesOfDraftsEqualEachPathAlone) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    DeltaRig rig(shape.sizes, GetParam(), 2);
    test::check_trees(rig);
  }
}

TEST_P(GatedDeltaNetBits, RejectedDraftsLeaveNoTrace) {
  for (const Shape& shape : shapes()) {
    DeltaRig rig(shape.sizes, GetParam(), 2);
    const std::vector<int32_t> tokens = random_tokens(100, 10);
    const Rows expected = rig.straight(tokens);
    state::SequenceState sequence = rig.sequence();
    Rows rows;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t room = static_cast<int64_t>(i) % 5;
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
    const Rows whole = rig.straight(tokens);
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
      rows.push_back(rig.straight(tokens));
    }
    ASSERT_TRUE(backend::use_target("auto").has_value());
    for (const Rows& other : rows) EXPECT_TRUE(same_bits(other, rows[0])) << shape.name;
  }
}

// The whole sub-layer, projections included: [q|k|v], z, b and a in their places.
template <class T>
Rows whole_mixer(const test::MixerRig& rig, const Sizes& s, const std::vector<int32_t>& tokens) {
  sublayer::RandomWeights source = rig.weights();
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
  backend::WeightMemory memory;
  const Weights weights = *read_weights(source, s, memory);
  std::vector<std::vector<T>> inputs;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const std::vector<float> row = rig.input(tokens[t], static_cast<int64_t>(t));
    inputs.emplace_back();
    for (const char* name : {"qkv_proj", "z_proj", "b_proj", "a_proj"})
      multiply(name, {row.begin(), row.end()}, inputs.back());
  }
  const MixArgs args(s, weights);
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
    if (mixer_case.bench || mixer_case.weights != DType::f32) continue;
    Sizes s = make_sizes(
        *mixer_case.params.integer("key_heads"), *mixer_case.params.integer("value_heads"),
        *mixer_case.params.integer("key_dim"), *mixer_case.params.integer("value_dim"),
        mixer_case.params.flag_or("tiled", false));
    for (const KernelSet kernels : {KernelSet::reference, KernelSet::cpu}) {
      test::MixerRig rig(kind, mixer_case, kernels, 2);
      const Rows exact = whole_mixer<double>(rig, s, tokens);
      const double budget = 2 * test::distance(whole_mixer<float>(rig, s, tokens), exact);
      auto sequence = rig.sequence();
      EXPECT_LE(test::distance(rig.feed(*sequence, tokens, 33), exact), budget) << mixer_case.name;
    }
  }
}

TEST(GatedDeltaNet, RequantisedProjectionsKeepTheGatesApart) {
  const sublayer::Kind& kind = **sublayer::find_kind("gated_delta_net");
  sublayer::Params params = kind.cases()[0].params;
  params.set("d_model", int64_t{64});
  test::MixerRig rig(kind, {"quantised", params}, KernelSet::cpu, 1);
  const int64_t exact_bytes = rig.mixer->weight_bytes();
  sublayer::RandomWeights weights(*rig.design, 7);
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
    const auto design = sublayer::make_design(kind, params, {});
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
