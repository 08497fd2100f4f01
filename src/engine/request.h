#pragma once
// What is asked of the engine and what it answers. Tokens only: text, templates and HTTP live
// above.
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/sampling.h"

namespace heddle::engine {

using RequestId = uint64_t;

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  // Answers to the prompt, which is read once. Choice 0 is what a request for one gives; each other
  // draws with a seed made of the request's and its number (choice_seed).
  int64_t choices = 1;
  int64_t max_tokens = 0;  // output tokens at most; 0 = score the prompt only (with score_prompt)
  std::vector<int32_t> stop_tokens;
  SamplingParams sampling;
  // Emit a PromptScore event for every prompt position (log probability of the next prompt token).
  // Reads the whole prompt.
  bool score_prompt = false;
  // Prefixes of the prompt worth resuming from later (template boundaries), as lengths; in any
  // order.
  std::vector<int64_t> checkpoints;
  // Cached prefixes are shared inside one isolation key only (a hit is a timing side channel).
  std::string isolation_key;
  bool use_cache = true;
  bool keep_logits = false;  // TokenEvent::logits is filled: for equivalence checks
};

uint64_t choice_seed(uint64_t seed, int64_t choice);

// Why a request was not taken. Whoever speaks a protocol chooses its answer by the kind.
struct Refusal : Error {
  enum class Kind : uint8_t {
    invalid,        // it can never run: a token or a parameter is wrong
    too_long,       // prompt and output do not fit the model's context
    too_large,      // its state does not fit the memory that is configured
    queue_full,     // later it can
    out_of_memory,  // later it can
    shutting_down,  // elsewhere it can
  } kind = Kind::invalid;
  std::string parameter;  // the field at fault, if any
};
template <class T>
using Admission = tl::expected<T, Refusal>;

enum class FinishReason : uint8_t { stop, length, cancelled, error };
std::string_view finish_reason_name(FinishReason reason);

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, not read again
  int64_t output_tokens = 0;
  double queue_seconds = 0;    // until the first step
  double prefill_seconds = 0;  // first step until the first token
  double decode_seconds = 0;   // first token until the last
};

struct Event {
  enum class Kind : uint8_t { prompt_score, token, finished } kind = Kind::token;
  RequestId request = 0;
  int64_t position = 0;       // token: of the token; prompt_score: of the scored token (>= 1)
  Sample sample;              // token, prompt_score
  std::vector<float> logits;  // token, with keep_logits
  FinishReason reason = FinishReason::stop;  // finished
  std::string error;                         // finished with reason error
  bool temporary = false;  // finished with reason error: the same request may succeed later
  Usage usage;             // finished
};

}  // namespace heddle::engine
