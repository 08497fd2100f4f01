#pragma once
// The OpenAI-compatible JSON of requests and answers. Pure: bodies in, bodies out; no sockets here.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "server/generation.h"

namespace heddle::server {

// An HTTP status and the error object that clients of the API expect.
struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  std::string param;  // the field at fault, if any
};
template <class T>
using ApiResult = tl::expected<T, ApiError>;

struct ChatRequest {
  text::Value messages;  // list of maps with role and content
  text::Value tools;     // list or undefined
  text::Value template_arguments;
  bool add_generation_prompt = true;
  GenerationRequest generation;  // prompt still empty
  bool stream = false;
  bool include_usage = false;
};

struct CompletionRequest {
  std::vector<std::variant<std::string, std::vector<int32_t>>> prompts;
  GenerationRequest generation;
  bool echo = false;
  bool stream = false;
  bool include_usage = false;
};

struct ApiDefaults {
  int64_t max_tokens = 4096;  // of an answer when the request names none
  uint64_t seed = 0;          // of this request when it names none
};

ApiResult<ChatRequest> parse_chat_request(std::string_view body, const ApiDefaults& defaults);
ApiResult<CompletionRequest> parse_completion_request(std::string_view body,
                                                      const ApiDefaults& defaults);

std::string error_body(const ApiError& error);

// What is the same in every body of one answer.
struct AnswerHeader {
  std::string id;  // "chatcmpl-..." or "cmpl-..."
  std::string model;
  int64_t created = 0;  // seconds since 1970
};

// One finished choice.
struct Choice {
  int64_t index = 0;
  std::string text;
  std::vector<ScoredToken> tokens;
  bool with_logprobs = false;
  std::string finish_reason;
};

// Sums the usage of several prompts.
struct UsageTotals {
  engine::Usage sum;
  void add(const engine::Usage& usage);
};

std::string chat_body(const AnswerHeader& header, const Choice& choice, const UsageTotals& usage);
std::string chat_chunk_body(const AnswerHeader& header, const TextDelta& delta, bool first,
                            bool with_logprobs);
std::string completion_body(const AnswerHeader& header, const std::vector<Choice>& choices,
                            const UsageTotals& usage);
std::string completion_chunk_body(const AnswerHeader& header, int64_t index, const TextDelta& delta,
                                  bool with_logprobs);
// The last chunk of a stream when usage was asked for.
std::string usage_chunk_body(const AnswerHeader& header, bool chat, const UsageTotals& usage);

}  // namespace heddle::server
