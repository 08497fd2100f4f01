#pragma once
// The OpenAI-compatible JSON of requests and answers. Pure: bodies in, bodies out; no sockets here.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "serving/generation.h"

namespace heddle::server {

// An HTTP status and the error object that clients of the API expect.
struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  std::string param;    // the field at fault, if any
  std::string code;     // for programs: "invalid_api_key", "context_length_exceeded", ...
  int retry_after = 0;  // seconds; 0: trying again does not help
};
template <class T>
using ApiResult = tl::expected<T, ApiError>;

struct ChatRequest {
  text::Value messages;  // list of maps with role and content
  text::Value tools;     // list or undefined
  text::Value template_arguments;
  bool add_generation_prompt = true;
  serving::GenerationRequest generation;  // prompt still empty
  int64_t n = 1;                          // choices
  bool stream = false;
  bool include_usage = false;
};

struct CompletionRequest {
  std::vector<std::variant<std::string, std::vector<int32_t>>> prompts;
  serving::GenerationRequest generation;
  int64_t n = 1;  // choices of every prompt
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

// A text or a conversation whose tokens are wanted.
struct TokenizeRequest {
  std::optional<std::string> prompt;  // else messages
  ChatRequest chat;
  bool add_special = true;
  bool with_strings = false;
};
ApiResult<TokenizeRequest> parse_tokenize_request(std::string_view body);
// Ids are not compared with any vocabulary here.
ApiResult<std::vector<int32_t>> parse_detokenize_request(std::string_view body);

// What the engine's refusal means over HTTP.
ApiError refusal_error(const engine::Refusal& refusal);
ApiError out_of_memory_error(std::string message);
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
  std::vector<serving::ScoredToken> tokens;
  bool with_logprobs = false;
  std::string finish_reason;
};

// Sums the usage of several choices. What a prompt took is counted with its first choice.
struct UsageTotals {
  engine::Usage sum;
  void add(const engine::Usage& usage, bool first_of_prompt);
};

std::string chat_body(const AnswerHeader& header, const std::vector<Choice>& choices,
                      const UsageTotals& usage);
std::string completion_body(const AnswerHeader& header, const std::vector<Choice>& choices,
                            const UsageTotals& usage);

// A piece of one choice of a stream.
struct ChunkPlace {
  int64_t index = 0;
  bool first = false;  // the first piece of this choice
  bool with_logprobs = false;
  int64_t text_offset = 0;  // characters of the choice before this piece
};
std::string chat_chunk_body(const AnswerHeader& header, const serving::TextDelta& delta,
                            const ChunkPlace& place);
std::string completion_chunk_body(const AnswerHeader& header, const serving::TextDelta& delta,
                                  const ChunkPlace& place);
// The last chunk of a stream when usage was asked for.
std::string usage_chunk_body(const AnswerHeader& header, bool chat, const UsageTotals& usage);

std::string tokenize_body(const std::vector<int32_t>& tokens, const text::Tokenizer& tokenizer,
                          bool with_strings, int64_t context_length);
std::string detokenize_body(std::string_view text);
int64_t count_characters(std::string_view utf8);

}  // namespace heddle::server
