// The specification: float64, one row after the other, everything sorted.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/rng.h"
#include "ops/sample/sample.h"

namespace heddle::ops {
namespace {

// Every token that can be chosen, likeliest first, equal ones by number.
std::vector<int32_t> ranking(std::span<const float> logits) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isinf(logits[i])) order.push_back(static_cast<int32_t>(i));
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  return order;
}

// Log probabilities: of `token`, and of the `top` likeliest.
void add_logprobs(std::span<const float> logits, std::span<const int32_t> order, int top,
                  Sample& out) {
  const double highest = logits[static_cast<size_t>(order[0])];
  double sum = 0;
  for (const int32_t token : order) sum += std::exp(logits[static_cast<size_t>(token)] - highest);
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(logits[static_cast<size_t>(token)] - highest - std::log(sum));
  };
  out.logprob = logprob(out.token);
  for (const int32_t token : order.first(std::min(order.size(), static_cast<size_t>(top))))
    out.top.push_back({token, logprob(token)});
}

int32_t choose(std::span<const float> logits, std::vector<int32_t> order,
               const SamplingParams& params, int64_t position) {
  if (params.greedy()) return order[0];
  const double highest = logits[static_cast<size_t>(order[0])];
  std::vector<double> weight(logits.size());
  for (const int32_t token : order)
    weight[static_cast<size_t>(token)] =
        std::exp((logits[static_cast<size_t>(token)] - highest) / params.temperature);
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(order.size()))
    order.resize(static_cast<size_t>(params.top_k));
  const auto sum_of = [&] {
    double sum = 0;
    for (const int32_t token : order) sum += weight[static_cast<size_t>(token)];
    return sum;
  };
  if (params.top_p < 1) {
    const double enough = params.top_p * sum_of();
    double reached = 0;
    size_t kept = 0;
    while (kept < order.size() && reached < enough)
      reached += weight[static_cast<size_t>(order[kept++])];
    order.resize(kept);
  }
  std::erase_if(order,
                [&](int32_t token) { return weight[static_cast<size_t>(token)] < params.min_p; });
  std::sort(order.begin(), order.end());
  double target = random_unit(params.seed, static_cast<uint64_t>(position)) * sum_of();
  int32_t chosen = order[0];
  for (const int32_t token : order) {
    const double w = weight[static_cast<size_t>(token)];
    if (w > 0) chosen = token;
    if (target < w) break;
    target -= w;
  }
  return chosen;
}

Result<Sample> sample_row(const SampleRow& row, int64_t vocab) {
  const std::span<const float> logits(row.logits, static_cast<size_t>(vocab));
  const auto finite = [&] {
    return std::all_of(logits.begin(), logits.end(),
                       [](float x) { return x < std::numeric_limits<float>::infinity(); });
  };
  if (!finite()) return not_finite();
  Sample result;
  const bool scored = row.given >= 0;
  std::vector<float> model;  // its own distribution, kept when the row changes
  if (scored || row.params->logprobs >= 0) model.assign(logits.begin(), logits.end());
  if (scored) {
    result.token = row.given;
  } else {
    adjust_logits(row, vocab, nullptr);
    if (!finite()) return not_finite();
    std::vector<int32_t> order = ranking(logits);
    if (order.empty()) return nothing_allowed();
    result.token = choose(logits, std::move(order), *row.params, row.position);
  }
  if (!model.empty()) {
    const std::vector<int32_t> order = ranking(model);
    if (order.empty()) return nothing_allowed();
    add_logprobs(model, order, std::max(row.params->logprobs, 0), result);
  }
  return result;
}

}  // namespace

std::vector<Result<Sample>> ref::sample(backend::Context&, std::span<const SampleRow> rows,
                                        int64_t vocab) {
  HEDDLE_CHECK(vocab >= 1, "vocab {}", vocab);
  std::vector<Result<Sample>> out;
  for (const SampleRow& row : rows) out.push_back(sample_row(row, vocab));
  return out;
}

}  // namespace heddle::ops
