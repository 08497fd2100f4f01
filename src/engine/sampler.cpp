#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/rng.h"

namespace heddle::engine {
namespace {

// Higher first; equal ones by lower index.
struct ByLogit {
  std::span<const float> logits;
  bool operator()(int32_t a, int32_t b) const {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  }
};

int32_t argmax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i)
    if (logits[i] > logits[best]) best = i;
  return static_cast<int32_t>(best);
}

double log_sum_exp(std::span<const float> logits) {
  const double top = logits[static_cast<size_t>(argmax(logits))];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

// The `count` likeliest tokens, in order.
std::vector<int32_t> top_tokens(std::span<const float> logits, int64_t count) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  count = std::min<int64_t>(count, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), ByLogit{logits});
  order.resize(static_cast<size_t>(count));
  return order;
}

void apply_penalties(std::span<float> logits, const SamplingParams& params,
                     const TokenCounts& seen) {
  const bool repetition = params.repetition_penalty != 1.0;
  if (repetition || params.presence_penalty != 0 || params.frequency_penalty != 0) {
    for (const auto& [token, count] : seen.counts()) {
      float& logit = logits[static_cast<size_t>(token)];
      if (repetition) {
        const auto penalty = static_cast<float>(params.repetition_penalty);
        logit = logit > 0 ? logit / penalty : logit * penalty;
      }
      if (count.output > 0)
        logit -=
            static_cast<float>(params.presence_penalty + params.frequency_penalty * count.output);
    }
  }
  for (const auto& [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
}

// Tokens that survive top-k, min-p and top-p with their unnormalised probabilities, likeliest
// first.
struct Candidates {
  std::vector<int32_t> tokens;
  std::vector<double> weights;
  double total = 0;
};

Candidates select(std::span<const float> logits, const SamplingParams& params) {
  const auto vocab = static_cast<int64_t>(logits.size());
  const double inverse_temperature = 1.0 / params.temperature;
  const double top = logits[static_cast<size_t>(argmax(logits))];
  const auto weight = [&](int32_t token) {
    return std::exp((logits[static_cast<size_t>(token)] - top) * inverse_temperature);
  };
  const int64_t limit = params.top_k > 0 ? std::min(params.top_k, vocab) : vocab;
  double mass = 0;  // of everything that top-k lets through
  Candidates result;
  if (limit == vocab && params.top_p >= 1.0) {  // no order needed: keep index order
    for (int32_t token = 0; token < vocab; ++token) {
      const double w = weight(token);
      if (w < params.min_p) continue;
      result.tokens.push_back(token);
      result.weights.push_back(w);
      result.total += w;
    }
    return result;
  }
  if (limit == vocab)
    for (int32_t token = 0; token < vocab; ++token) mass += weight(token);
  // The nucleus is small as a rule: order a prefix and double it while it does not reach top_p.
  for (int64_t count = std::min<int64_t>(limit, 256);; count = std::min(limit, count * 8)) {
    const std::vector<int32_t> order = top_tokens(logits, count);
    if (limit < vocab && count == limit) {
      mass = 0;
      for (const int32_t token : order) mass += weight(token);
    }
    result = {};
    bool complete = count == limit;
    if (limit < vocab && !complete) continue;
    for (const int32_t token : order) {
      const double w = weight(token);
      if (!result.tokens.empty() && (result.total >= params.top_p * mass || w < params.min_p)) {
        complete = true;
        break;
      }
      result.tokens.push_back(token);
      result.weights.push_back(w);
      result.total += w;
    }
    if (complete || result.total >= params.top_p * mass) return result;
  }
}

}  // namespace

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

Sample score(std::span<const float> logits, int32_t token, int top) {
  Sample result;
  result.token = token;
  const double norm = log_sum_exp(logits);
  result.logprob = static_cast<float>(logits[static_cast<size_t>(token)] - norm);
  if (top > 0)
    for (const int32_t t : top_tokens(logits, top))
      result.top.push_back({t, static_cast<float>(logits[static_cast<size_t>(t)] - norm)});
  return result;
}

Sample sample(std::span<float> logits, const SamplingParams& params, const TokenCounts& seen,
              int64_t position) {
  HEDDLE_CHECK(!logits.empty());
  Sample result;
  std::vector<TokenLogprob> top;
  double norm = 0;
  std::vector<float> raw;
  if (params.logprobs >= 0) {
    raw.assign(logits.begin(), logits.end());
    norm = log_sum_exp(raw);
    for (const int32_t t : top_tokens(raw, params.logprobs))
      top.push_back({t, static_cast<float>(raw[static_cast<size_t>(t)] - norm)});
  }
  apply_penalties(logits, params, seen);
  if (params.temperature == 0 || params.top_k == 1) {
    result.token = argmax(logits);
  } else {
    const Candidates candidates = select(logits, params);
    double target = random_unit(params.seed, static_cast<uint64_t>(position)) * candidates.total;
    size_t chosen = 0;
    while (chosen + 1 < candidates.tokens.size() && target >= candidates.weights[chosen]) {
      target -= candidates.weights[chosen];
      ++chosen;
    }
    result.token = candidates.tokens[chosen];
  }
  if (params.logprobs >= 0) {
    result.logprob = static_cast<float>(raw[static_cast<size_t>(result.token)] - norm);
    result.top = std::move(top);
  }
  return result;
}

}  // namespace heddle::engine
