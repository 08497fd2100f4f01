#include "ops/sample/sample.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace heddle::ops {

std::vector<Result<Sample>> sample(backend::Context& ctx, std::span<const SampleRow> rows,
                                   int64_t vocab) {
  const backend::ProfileScope part(
      ctx, "sample", [&] { return sample_work(static_cast<int64_t>(rows.size()), vocab); });
  return ctx.reference() ? ref::sample(ctx, rows, vocab) : cpu::sample(ctx, rows, vocab);
}

backend::Work sample_work(int64_t rows, int64_t vocab) {
  backend::Work work;
  work.bytes = 4.0 * static_cast<double>(rows) * static_cast<double>(vocab);
  return work;
}

void adjust_logits(const SampleRow& row, int64_t vocab, std::vector<TokenLogit>* before) {
  const SamplingParams& params = *row.params;
  const auto logit_of = [&](int32_t token) -> float& {
    HEDDLE_CHECK(token >= 0 && token < vocab, "token {} of {}", token, vocab);
    if (before != nullptr) before->push_back({token, row.logits[token]});
    return row.logits[token];
  };
  if (params.penalises()) {
    const auto repetition = static_cast<float>(params.repetition_penalty);
    for (const SeenToken& seen : row.seen) {
      float& logit = logit_of(seen.token);
      if (repetition != 1.0f) logit = logit > 0 ? logit / repetition : logit * repetition;
      if (seen.output > 0)
        logit -=
            static_cast<float>(params.presence_penalty + params.frequency_penalty * seen.output);
    }
  }
  for (const auto& [token, bias] : params.logit_bias) logit_of(token) += bias;
  if (row.allowed == nullptr) return;
  for (int64_t first = 0; first < vocab; first += 32) {
    const uint32_t allowed = row.allowed[first / 32];
    if (allowed == ~uint32_t{0}) continue;
    for (int64_t i = 0; i < std::min<int64_t>(32, vocab - first); ++i)
      if ((allowed >> i & 1) == 0) row.logits[first + i] = -std::numeric_limits<float>::infinity();
  }
}

tl::unexpected<Error> not_finite() {
  return fail(
      "a logit is not a number, or infinite: the model's weights are damaged, or it was "
      "converted to a type too small for its values");
}

tl::unexpected<Error> nothing_allowed() {
  return fail("no token may be chosen: every one is masked, or has the logit -inf");
}

}  // namespace heddle::ops
