#pragma once
// Choosing the next token: a pure function of a row of logits, its parameters, what was said
// before, and (seed, position). A row's answer has the same bits on every target, with any number
// of threads, and whatever other rows are asked for with it (docs/decisions/0005).
//
// A row passes, in this order: repetition, presence and frequency penalties, bias, mask;
// temperature; top-k; top-p of what top-k left; min-p. Of what remains one token is drawn by the
// inverse of the distribution in the order of the tokens' numbers. Equal logits are cut by number:
// the lower one stays.
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/context.h"
#include "backend/profile.h"
#include "base/result.h"

namespace heddle::ops {

// Ranges are the caller's to check (engine/sampling.h: validate).
struct SamplingParams {
  double temperature = 1.0;         // 0 = the most likely token
  int64_t top_k = 0;                // 0 = all
  double top_p = 1.0;               // (0, 1]: the likeliest that together reach this probability
  double min_p = 0.0;               // [0, 1]: keep tokens at least min_p as likely as the likeliest
  double repetition_penalty = 1.0;  // > 0; prompt and output (CTRL, arXiv 1909.05858)
  double presence_penalty = 0.0;    // output only, [-2, 2]
  double frequency_penalty = 0.0;   // output only, [-2, 2]
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  // Log probabilities of the model's own distribution (before penalties and temperature): -1 =
  // none, else the chosen token's and the `logprobs` likeliest.
  int logprobs = -1;

  bool penalises() const {
    return repetition_penalty != 1.0 || presence_penalty != 0 || frequency_penalty != 0;
  }
  bool greedy() const { return temperature == 0 || top_k == 1; }
};

// How often a token was read and said. A row names each token once.
struct SeenToken {
  int32_t token = 0;
  int32_t prompt = 0;
  int32_t output = 0;
};

struct SampleRow {
  float* logits = nullptr;  // [vocab]; penalties, bias and mask are written into them
  const SamplingParams* params = nullptr;
  std::span<const SeenToken> seen;  // for the penalties
  // [(vocab + 31) / 32]: the token may be chosen if bit token % 32 of word token / 32 is set. Null:
  // all may.
  const uint32_t* allowed = nullptr;
  int64_t position = 0;  // of the token that is being chosen
  int32_t given = -1;    // >= 0: this token is scored (its log probability), none is chosen
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct Sample {
  int32_t token = 0;
  float logprob = 0;              // with logprobs >= 0, and of a given token
  std::vector<TokenLogprob> top;  // likeliest first, equal ones by number; none of probability 0
};

// One answer a row. A token with the logit -inf is never chosen. An error where a logit is NaN or
// +inf, or where no token may be chosen: the model or its weights are at fault, not the other rows.
// vocab >= 1; tokens in seen, bias and given lie in [0, vocab).
namespace ref {
std::vector<Result<Sample>> sample(backend::Context& ctx, std::span<const SampleRow> rows,
                                   int64_t vocab);
}  // namespace ref
namespace cpu {
std::vector<Result<Sample>> sample(backend::Context& ctx, std::span<const SampleRow> rows,
                                   int64_t vocab);
}  // namespace cpu
std::vector<Result<Sample>> sample(backend::Context& ctx, std::span<const SampleRow> rows,
                                   int64_t vocab);

// The logits once.
backend::Work sample_work(int64_t rows, int64_t vocab);

// Of both implementations: penalties, bias and mask, in float32. `before`: if not null, the logits
// that penalties and bias changed, as they were.
struct TokenLogit {
  int32_t token = 0;
  float logit = 0;
};
void adjust_logits(const SampleRow& row, int64_t vocab, std::vector<TokenLogit>* before);
tl::unexpected<Error> not_finite();
tl::unexpected<Error> nothing_allowed();

}  // namespace heddle::ops
