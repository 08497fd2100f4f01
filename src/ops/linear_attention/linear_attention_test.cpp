#include "ops/linear_attention/linear_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "backend/target.h"
#include "ops/linear_attention/toy_rules_test.h"
#include "test/support/fold_rig.h"

namespace heddle::ops::linear_attention {
namespace {

using backend::KernelSet;
using test::Rows;
using toy::Kind;

// How a row's gates and inputs are spread.
struct Inputs {
  float scale = 1;     // of q, k, v, z
  float strength = 0;  // strength + noise
  float forget = 0;    // kda: forget + noise
  float noise = 1;
  float decay = 1;  // factor of the heads' decays
};

class ToyRig : public test::FoldRig {
 public:
  ToyRig(const toy::Sizes& sizes, KernelSet kernels, int threads, Inputs inputs = {})
      : FoldRig({fold_part("s", sizes)}, sizes.value_width(), kernels, threads),
        s(sizes),
        inputs_(inputs) {
    Rng rng(3);
    for (int64_t h = 0; h < s.value_heads; ++h) {
      decay_.push_back(-inputs.decay * std::exp(rng.normal() - 2));
      skip_.push_back(rng.normal());
    }
    for (int64_t i = 0; i < s.value_width(); ++i) norm_.push_back(1 + 0.2f * rng.normal());
  }

  std::vector<float> input(int32_t token, int64_t position) const override {
    Rng rng = test::row_rng(token, position);
    std::vector<float> x(static_cast<size_t>(s.projected()));
    for (float& value : x) value = inputs_.scale * rng.normal();
    for (int64_t i = s.strength_at(0); i < s.projected(); ++i)
      x[static_cast<size_t>(i)] =
          (i < s.decay_at(0) ? inputs_.strength : inputs_.forget) + inputs_.noise * rng.normal();
    return x;
  }

  toy::Args args() const {
    toy::Args args(s);
    args.decay = decay_.data();
    args.skip = skip_.data();
    args.norm = norm_.data();
    return args;
  }

  template <class T>
  Rows recurrence(const std::vector<int32_t>& tokens) const {
    std::vector<std::vector<T>> inputs;
    for (size_t t = 0; t < tokens.size(); ++t) {
      const std::vector<float> row = input(tokens[t], static_cast<int64_t>(t));
      inputs.emplace_back(row.begin(), row.end());
    }
    const toy::Args own = args();
    Rows result;
    for (const auto& row : linear_attention::recurrence(toy::Equations<T>(own, &inputs),
                                                        static_cast<int64_t>(tokens.size())))
      result.emplace_back(row.begin(), row.end());
    return result;
  }

  const toy::Sizes s;

 protected:
  void run(const state::BatchView& batch, const state::StateView& state, const float* x,
           float* y) override {
    toy::Args own = args();
    own.batch = &batch;
    own.state = &state;
    own.projected = x;
    own.y = y;
    context.reference() ? reference_step(own, toy::Equations<double>(own, nullptr))
                        : toy::step(context, own);
  }

 private:
  Inputs inputs_;
  std::vector<float> decay_, skip_, norm_;
};

struct Shape {
  std::string name;
  toy::Sizes sizes;
};

std::vector<Shape> shapes() {
  std::vector<Shape> all = {{"lightning", {Kind::lightning, 3, 3, 16, 16}},
                            {"lightning_odd", {Kind::lightning, 2, 2, 20, 37}},
                            {"ssd_one_group", {Kind::ssd, 1, 5, 24, 32}},
                            {"ssd_groups", {Kind::ssd, 2, 6, 16, 9}},
                            {"kda", {Kind::kda, 2, 2, 32, 48}},
                            {"kda_odd", {Kind::kda, 3, 3, 20, 9}},
                            {"kda_grouped", {Kind::kda, 2, 4, 16, 16}}};
  all.push_back({"ssd_tiled", {Kind::ssd, 2, 4, 16, 32}});
  all.back().sizes.tiled = true;
  return all;
}

class LinearAttention : public testing::TestWithParam<KernelSet> {
 protected:
  static auto maker(const Shape& shape) {
    return [&shape](int threads) { return ToyRig(shape.sizes, GetParam(), threads); };
  }
};
INSTANTIATE_TEST_SUITE_P(Kernels, LinearAttention,
                         testing::Values(KernelSet::reference, KernelSet::cpu),
                         [](const auto& param) {
                           return param.param == KernelSet::cpu ? "cpu" : "reference";
                         });

// The budget is twice what the plain recurrence in float32 loses.
TEST_P(LinearAttention, FollowsTheRecurrence) {
  const std::vector<int32_t> tokens = test::random_tokens(150, 3);
  const std::vector<std::pair<const char*, Inputs>> spreads = {
      {"plain", {}},
      {"large", {.scale = 30}},
      {"keeps everything", {.strength = -8, .forget = -20, .decay = 1e-6f}},
      {"forgets everything", {.forget = 60, .decay = 300}},
      {"forgets now and then", {.strength = -4, .forget = -10, .noise = 6, .decay = 20}},
      {"writes nothing", {.strength = -60}},
      {"writes fully", {.strength = 40}}};
  for (const Shape& shape : shapes())
    for (const auto& [name, inputs] : spreads) {
      ToyRig rig(shape.sizes, GetParam(), 2, inputs);
      const Rows exact = rig.recurrence<double>(tokens);
      const double budget = 2 * test::distance(rig.recurrence<float>(tokens), exact);
      const double error = test::distance(rig.straight(tokens), exact);
      EXPECT_LE(error, budget) << shape.name << ", " << name;
      printf("%-14s %-22s error/budget %.2f (budget %.1e)\n", shape.name.c_str(), name,
             error / budget, budget);
    }
}

TEST_P(LinearAttention, AnyChunkingEqualsOnePass) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    ToyRig rig(shape.sizes, GetParam(), 1);
    test::check_chunks(rig);
  }
}

TEST_P(LinearAttention, AnyBatchAndThreadCountEqualsAlone) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    test::check_batches(maker(shape));
  }
}

TEST_P(LinearAttention, SplitHeadsEqualWholeHeads) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    test::check_splits(maker(shape));
  }
}

TEST_P(LinearAttention, TreesOfDraftsEqualEachPathAlone) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    ToyRig rig(shape.sizes, GetParam(), 2);
    test::check_trees(rig);
  }
}

TEST(LinearAttentionTargets, GiveTheSameBits) {
  const std::vector<int32_t> tokens = test::random_tokens(80, 13);
  for (const Shape& shape : shapes()) {
    std::vector<Rows> rows;
    for (const std::string_view target : backend::supported_targets()) {
      ASSERT_TRUE(backend::use_target(target).has_value());
      ToyRig rig(shape.sizes, KernelSet::cpu, 2);
      rows.push_back(rig.straight(tokens));
    }
    ASSERT_TRUE(backend::use_target("auto").has_value());
    for (const Rows& other : rows) EXPECT_TRUE(test::same_bits(other, rows[0])) << shape.name;
  }
}

}  // namespace
}  // namespace heddle::ops::linear_attention
