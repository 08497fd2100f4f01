#pragma once
// Choosing the next token: a pure function of the logits, the parameters, what was said before, and
// (seed, position). Batching, chunking and scheduling therefore never change text.
#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"

namespace heddle::engine {

struct SamplingParams {
  double temperature = 1.0;         // 0 = the most likely token
  int64_t top_k = 0;                // 0 = all
  double top_p = 1.0;               // (0, 1]
  double min_p = 0.0;               // [0, 1]: keep tokens at least min_p as likely as the likeliest
  double repetition_penalty = 1.0;  // > 0; prompt and output (CTRL, arXiv 1909.05858)
  double presence_penalty = 0.0;    // output only, [-2, 2]
  double frequency_penalty = 0.0;   // output only, [-2, 2]
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  // Log probabilities of the model's own distribution (before penalties and temperature): -1 =
  // none, else the chosen token's and the `logprobs` likeliest.
  int logprobs = -1;
};
constexpr int kMaxLogprobs = 100;

// What is wrong with a parameter, and which one: the name that the API gives it too.
struct ParameterError : Error {
  std::string parameter;
};

// Ranges of the values above; the message names the parameter and what is expected.
tl::expected<void, ParameterError> validate(const SamplingParams& params, int64_t vocab_size);

// Tokens seen, for the penalties.
class TokenCounts {
 public:
  void add_prompt(int32_t token) { ++counts_[token].prompt; }
  void add_output(int32_t token) { ++counts_[token].output; }
  struct Count {
    int32_t prompt = 0;
    int32_t output = 0;
  };
  const std::unordered_map<int32_t, Count>& counts() const { return counts_; }

 private:
  std::unordered_map<int32_t, Count> counts_;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct Sample {
  int32_t token = 0;
  float logprob = 0;              // valid when logprobs >= 0
  std::vector<TokenLogprob> top;  // likeliest first
};

// logits [vocab] are changed in place. position: of the token that is being chosen.
Sample sample(std::span<float> logits, const SamplingParams& params, const TokenCounts& seen,
              int64_t position);

// log softmax(logits)[token], in double, and the `top` likeliest.
Sample score(std::span<const float> logits, int32_t token, int top);

}  // namespace heddle::engine
