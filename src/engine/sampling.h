#pragma once
// What a request may ask of sampling, and what its penalties have to know. The choice itself is
// ops/sample/sample.h.
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "ops/sample/sample.h"

namespace heddle::engine {

using ops::Sample;
using ops::SamplingParams;
using ops::TokenLogprob;

constexpr int kMaxLogprobs = 100;

// What is wrong with a parameter, and which one: the name that the API gives it too.
struct ParameterError : Error {
  std::string parameter;
};

// Ranges of the values; the message names the parameter and what is expected.
tl::expected<void, ParameterError> validate(const SamplingParams& params, int64_t vocab_size);

// Tokens seen, for the penalties.
class TokenCounts {
 public:
  void add_prompt(int32_t token) { add(token, 1, 0); }
  void add_output(int32_t token) { add(token, 0, 1); }
  std::span<const ops::SeenToken> seen() const { return seen_; }  // in the order of their first use

 private:
  void add(int32_t token, int32_t prompt, int32_t output);
  std::vector<ops::SeenToken> seen_;
  std::unordered_map<int32_t, size_t> index_;  // into seen_
};

}  // namespace heddle::engine
