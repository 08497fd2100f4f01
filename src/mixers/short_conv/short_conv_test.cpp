#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "ops/conv/causal_conv.h"
#include "sublayer/kind_table.h"
#include "test/support/mixer_rig.h"

namespace heddle::mixers::short_conv {
namespace {

using backend::KernelSet;
using test::Rows;

// [B | C | u] = W_in x; s = B u; y = W_out (C conv(s)), in precision T.
template <class T>
Rows direct(const test::MixerRig& rig, size_t taps, const std::vector<int32_t>& tokens) {
  const auto d = static_cast<size_t>(rig.width);
  sublayer::RandomWeights source = rig.weights();
  const ops::MatrixSource in = *source.matrix("in_proj"), out = *source.matrix("out_proj");
  const std::vector<float> conv = *source.values("conv");  // [D, taps]
  const auto multiply = [&](const ops::MatrixSource& matrix, const std::vector<T>& x) {
    const auto* w = reinterpret_cast<const float*>(matrix.data);
    std::vector<T> y;
    for (size_t r = 0; r < static_cast<size_t>(matrix.rows); ++r) {
      T sum = 0;
      for (size_t c = 0; c < d; ++c) sum += T(w[r * d + c]) * x[c];
      y.push_back(sum);
    }
    return y;
  };
  Rows result;
  std::vector<std::vector<T>> products;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto row = rig.input(tokens[t], static_cast<int64_t>(t));
    const std::vector<T> bcu = multiply(in, {row.begin(), row.end()});
    products.emplace_back();
    std::vector<T> mixed;
    for (size_t c = 0; c < d; ++c) products.back().push_back(bcu[c] * bcu[2 * d + c]);
    for (size_t c = 0; c < d; ++c) {
      T sum = 0;
      for (size_t back = 0; back < taps && back <= t; ++back)
        sum += T(conv[c * taps + taps - 1 - back]) * products[t - back][c];
      mixed.push_back(bcu[d + c] * sum);
    }
    const std::vector<T> y = multiply(out, mixed);
    result.emplace_back(y.begin(), y.end());
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

TEST(ShortConv, FollowsItsEquationsInAnyChunks) {
  const sublayer::Kind& kind = **sublayer::find_kind("short_conv");
  const std::vector<int32_t> tokens = test::random_tokens(40, 1);
  for (const sublayer::Case& mixer_case : kind.cases()) {
    if (mixer_case.bench || mixer_case.weights != DType::f32) continue;
    const auto taps = static_cast<size_t>(*mixer_case.params.integer("taps"));
    for (const KernelSet kernels : {KernelSet::reference, KernelSet::cpu}) {
      test::MixerRig rig(kind, mixer_case, kernels, 2);
      const Rows exact = direct<double>(rig, taps, tokens);
      auto whole = rig.sequence();
      const Rows rows = rig.feed(*whole, tokens);
      EXPECT_LE(distance(rows, exact), 2 * distance(direct<float>(rig, taps, tokens), exact))
          << mixer_case.name;
      for (const int64_t chunk : {1, 2, 3, 7}) {
        auto sequence = rig.sequence();
        EXPECT_TRUE(test::same_bits(rig.feed(*sequence, tokens, chunk), rows)) << chunk;
      }
    }
  }
}

TEST(ShortConv, KeepsTheLastInputsOnly) {
  const sublayer::Kind& kind = **sublayer::find_kind("short_conv");
  const auto design =
      sublayer::make_design(kind, {{"d_model", int64_t{48}}, {"taps", int64_t{3}}}, {});
  ASSERT_TRUE(design.has_value());
  const std::vector<state::StatePart> parts = (*design)->state_parts();
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].growth, state::Growth::window);
  EXPECT_EQ(parts[0].window, 2);
  EXPECT_EQ(parts[0].record_elements(), 48);
  EXPECT_EQ(parts[0].page_records, 2);
}

TEST(ShortConv, SizesFromFilesAreRefusedWithTheReason) {
  const sublayer::Kind& kind = **sublayer::find_kind("short_conv");
  const auto reason = [&](int64_t d_model, int64_t taps) {
    const auto design = sublayer::make_design(kind, {{"d_model", d_model}, {"taps", taps}}, {});
    return design ? std::string() : design.error().message;
  };
  EXPECT_THAT(reason(0, 3), testing::HasSubstr("d_model is 0"));
  EXPECT_THAT(reason(int64_t{1} << 50, 3), testing::HasSubstr("d_model"));
  EXPECT_THAT(reason(16, 1), testing::HasSubstr("taps is 1"));
  EXPECT_THAT(reason(16, 1000), testing::HasSubstr("taps is 1000"));
  EXPECT_EQ(reason(16, 3), "");
}

}  // namespace
}  // namespace heddle::mixers::short_conv
