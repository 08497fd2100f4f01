#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <cmath>

namespace heddle::engine {
namespace {

TEST(Sampling, RefusesParametersOutOfRange) {
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

TEST(Sampling, TokenCountsNameEveryTokenOnceInTheOrderOfItsFirstUse) {
  TokenCounts counts;
  for (const int32_t token : {7, 3, 7}) counts.add_prompt(token);
  for (const int32_t token : {3, 9}) counts.add_output(token);
  const auto seen = counts.seen();
  ASSERT_EQ(seen.size(), 3u);
  const auto equals = [](const ops::SeenToken& a, int32_t token, int32_t prompt, int32_t output) {
    return a.token == token && a.prompt == prompt && a.output == output;
  };
  EXPECT_TRUE(equals(seen[0], 7, 2, 0));
  EXPECT_TRUE(equals(seen[1], 3, 1, 1));
  EXPECT_TRUE(equals(seen[2], 9, 0, 1));
}

}  // namespace
}  // namespace heddle::engine
