#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace heddle::engine {
namespace {

std::map<int32_t, int> histogram(const std::vector<float>& logits, SamplingParams params,
                                 int draws) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) {
    std::vector<float> copy = logits;
    ++counts[sample(copy, params, {}, i).token];
  }
  return counts;
}

TEST(Sampler, ZeroTemperatureTakesTheLowestOfTheLikeliest) {
  std::vector<float> logits = {1, 5, 5, 2};
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(sample(logits, params, {}, 0).token, 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  const auto counts = histogram(logits, {}, 20000);
  EXPECT_NEAR(counts.at(0) / 20000.0, 0.5, 0.015);
  EXPECT_NEAR(counts.at(1) / 20000.0, 0.3, 0.015);
  EXPECT_NEAR(counts.at(2) / 20000.0, 0.2, 0.015);
}

TEST(Sampler, TemperatureSharpens) {
  SamplingParams params;
  params.temperature = 0.5;  // squares the odds
  const auto counts = histogram({std::log(0.75f), std::log(0.25f)}, params, 20000);
  EXPECT_NEAR(counts.at(0) / 20000.0, 0.9, 0.01);
}

TEST(Sampler, TopKTopPAndMinPCutTheTail) {
  std::vector<float> logits(1000, -3);
  logits[7] = 2;
  logits[9] = 1.5;
  logits[11] = 1;
  SamplingParams params;
  params.top_k = 2;
  for (const auto& [token, count] : histogram(logits, params, 500))
    EXPECT_TRUE(token == 7 || token == 9) << token;
  params = {};
  params.min_p = 0.3;  // 1 / e^1 = 0.37 stays, e^-5 goes
  EXPECT_EQ(histogram(logits, params, 2000).size(), 3u);
  params = {};
  params.top_p = 0.1;  // the likeliest alone reaches it
  EXPECT_EQ(histogram(logits, params, 500).size(), 1u);
}

TEST(Sampler, TopPKeepsTheSmallestNucleusEvenWhenItIsWide) {
  std::vector<float> logits(5000, 0.0f);  // uniform: the nucleus of 0.9 holds 4500 tokens
  SamplingParams params;
  params.top_p = 0.9;
  int32_t highest = 0;
  for (const auto& [token, count] : histogram(logits, params, 3000))
    highest = std::max(highest, token);
  EXPECT_LT(highest, 4500);
  EXPECT_GT(highest, 4000);
}

TEST(Sampler, DependsOnSeedAndPositionOnly) {
  const std::vector<float> logits = {0.1f, 0.2f, 0.3f, 0.4f};
  SamplingParams params;
  params.seed = 42;
  std::vector<int32_t> first;
  for (int i = 0; i < 50; ++i) {
    auto copy = logits;
    first.push_back(sample(copy, params, {}, i).token);
  }
  for (int i = 49; i >= 0; --i) {
    auto copy = logits;
    EXPECT_EQ(sample(copy, params, {}, i).token, first[static_cast<size_t>(i)]);
  }
  params.seed = 43;
  int same = 0;
  for (int i = 0; i < 50; ++i) {
    auto copy = logits;
    same += sample(copy, params, {}, i).token == first[static_cast<size_t>(i)];
  }
  EXPECT_LT(same, 40);
}

TEST(Sampler, PenaltiesAndBiasMoveTheChoice) {
  SamplingParams params;
  params.temperature = 0;
  TokenCounts seen;
  seen.add_prompt(0);
  seen.add_output(1);
  std::vector<float> logits = {2.0f, 1.9f, 1.8f};
  params.repetition_penalty = 2;
  EXPECT_EQ(sample(logits, params, seen, 0).token, 2);
  logits = {1.0f, 2.0f, 1.8f};
  params = {};
  params.temperature = 0;
  params.frequency_penalty = 0.5;
  EXPECT_EQ(sample(logits, params, seen, 0).token, 2);
  logits = {1.0f, 2.0f, 1.8f};
  params = {};
  params.temperature = 0;
  params.logit_bias = {{0, 5.0f}};
  EXPECT_EQ(sample(logits, params, {}, 0).token, 0);
}

TEST(Sampler, LogprobsAreOfTheModelBeforePenalties) {
  SamplingParams params;
  params.temperature = 0;
  params.logprobs = 2;
  params.logit_bias = {{2, 10.0f}};
  std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  const Sample chosen = sample(logits, params, {}, 0);
  EXPECT_EQ(chosen.token, 2);
  EXPECT_NEAR(chosen.logprob, std::log(0.2), 1e-6);
  ASSERT_EQ(chosen.top.size(), 2u);
  EXPECT_EQ(chosen.top[0].token, 0);
  EXPECT_NEAR(chosen.top[0].logprob, std::log(0.5), 1e-6);
}

TEST(Sampler, RefusesParametersOutOfRange) {
  SamplingParams params;
  EXPECT_TRUE(validate(params, 10).has_value());
  params.top_p = 0;
  EXPECT_NE(validate(params, 10).error().message.find("top_p"), std::string::npos);
  params = {};
  params.temperature = std::nan("");
  EXPECT_FALSE(validate(params, 10).has_value());
  params = {};
  params.logit_bias = {{10, 1.0f}};
  EXPECT_NE(validate(params, 10).error().message.find("10 tokens"), std::string::npos);
}

}  // namespace
}  // namespace heddle::engine
