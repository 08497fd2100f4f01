#include "engine/sampling.h"

namespace heddle::engine {

void TokenCounts::add(int32_t token, int32_t prompt, int32_t output) {
  const auto [known, added] = index_.try_emplace(token, seen_.size());
  if (added) seen_.push_back({token});
  seen_[known->second].prompt += prompt;
  seen_[known->second].output += output;
}

tl::expected<void, ParameterError> validate(const SamplingParams& params, int64_t vocab_size) {
  const auto bad = [](const char* parameter, std::string expected) {
    ParameterError error;
    error.parameter = parameter;
    error.message = fmt::format("{} {}", parameter, expected);
    return tl::unexpected(std::move(error));
  };
  const auto in_range = [](double value, double low, double high) {
    return value >= low && value <= high;
  };
  const auto outside = [&](const char* parameter, double value, const char* range) {
    return bad(parameter, fmt::format("is {}, a number {} is expected", value, range));
  };
  if (!in_range(params.temperature, 0, 100))
    return outside("temperature", params.temperature, "from 0 to 100");
  if (params.top_k < 0)
    return bad("top_k", fmt::format("is {}, 0 (all) or more is expected", params.top_k));
  if (!(params.top_p > 0 && params.top_p <= 1)) return outside("top_p", params.top_p, "in (0, 1]");
  if (!in_range(params.min_p, 0, 1)) return outside("min_p", params.min_p, "from 0 to 1");
  if (!(params.repetition_penalty > 0 && params.repetition_penalty <= 100))
    return outside("repetition_penalty", params.repetition_penalty, "in (0, 100]");
  if (!in_range(params.presence_penalty, -2, 2))
    return outside("presence_penalty", params.presence_penalty, "from -2 to 2");
  if (!in_range(params.frequency_penalty, -2, 2))
    return outside("frequency_penalty", params.frequency_penalty, "from -2 to 2");
  if (params.logprobs < -1 || params.logprobs > kMaxLogprobs)
    return bad("logprobs",
               fmt::format("is {}, at most {} is expected", params.logprobs, kMaxLogprobs));
  for (const auto& [token, bias] : params.logit_bias) {
    if (token < 0 || token >= vocab_size)
      return bad("logit_bias",
                 fmt::format("names token {}, the vocabulary has {} tokens", token, vocab_size));
    if (!in_range(bias, -100, 100))
      return bad("logit_bias",
                 fmt::format("of token {} is {}, -100 to 100 is expected", token, bias));
  }
  return {};
}

}  // namespace heddle::engine
