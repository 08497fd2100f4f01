#include <algorithm>

#include "server/api/api.h"
#include "text/utf8.h"

namespace heddle::server {
namespace {

using text::Value;
using Entries = std::vector<std::pair<Value, Value>>;

std::string dump(Entries entries) {
  text::JsonOptions options;
  options.item_separator = ",";
  options.key_separator = ":";
  auto text = text::to_json(Value::map(std::move(entries)), options);
  return text ? *text : R"({"error":{"message":"the answer is too large","type":"server_error"}})";
}

// The exact bytes of a token, beside its text, where what is no whole character is U+FFFD.
Value byte_list(std::string_view bytes) {
  std::vector<Value> list;
  for (const char c : bytes) list.emplace_back(int64_t{static_cast<unsigned char>(c)});
  return Value::list(std::move(list));
}

Value chat_logprobs(const std::vector<serving::ScoredToken>& tokens) {
  std::vector<Value> content;
  for (const serving::ScoredToken& token : tokens) {
    std::vector<Value> top;
    for (const auto& other : token.top)
      top.push_back(Value::map({{"token", text::sanitize_utf8(other.bytes)},
                                {"logprob", double{other.logprob}},
                                {"bytes", byte_list(other.bytes)}}));
    content.push_back(Value::map({{"token", text::sanitize_utf8(token.bytes)},
                                  {"logprob", double{token.logprob}},
                                  {"bytes", byte_list(token.bytes)},
                                  {"top_logprobs", Value::list(std::move(top))}}));
  }
  return Value::map({{"content", Value::list(std::move(content))}});
}

// The older form of plain completions: parallel lists.
Value completion_logprobs(const std::vector<serving::ScoredToken>& tokens, int64_t offset) {
  std::vector<Value> texts;
  std::vector<Value> logprobs;
  std::vector<Value> tops;
  std::vector<Value> offsets;
  for (const serving::ScoredToken& token : tokens) {
    texts.emplace_back(text::sanitize_utf8(token.bytes));
    logprobs.push_back(token.scored ? Value(double{token.logprob}) : Value(nullptr));
    Entries top;
    for (const auto& other : token.top)
      top.emplace_back(text::sanitize_utf8(other.bytes), double{other.logprob});
    tops.push_back(token.scored ? Value::map(std::move(top)) : Value(nullptr));
    offsets.emplace_back(offset);
    offset += count_characters(token.bytes);
  }
  return Value::map({{"tokens", Value::list(std::move(texts))},
                     {"token_logprobs", Value::list(std::move(logprobs))},
                     {"top_logprobs", Value::list(std::move(tops))},
                     {"text_offset", Value::list(std::move(offsets))}});
}

Value usage_value(const engine::Usage& usage) {
  return Value::map(
      {{"prompt_tokens", usage.prompt_tokens},
       {"completion_tokens", usage.output_tokens},
       {"total_tokens", usage.prompt_tokens + usage.output_tokens},
       {"prompt_tokens_details", Value::map({{"cached_tokens", usage.cached_tokens}})}});
}

double rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

// prompt_n: prompt tokens that were read; the first token belongs to the prompt's time, so
// predicted_n - 1 intervals.
Value timings_value(const engine::Usage& usage) {
  const int64_t read = usage.prompt_tokens - usage.cached_tokens;
  return Value::map(
      {{"queue_ms", usage.queue_seconds * 1e3},
       {"prompt_n", read},
       {"prompt_ms", usage.prefill_seconds * 1e3},
       {"prompt_per_second", rate(read, usage.prefill_seconds)},
       {"predicted_n", usage.output_tokens},
       {"predicted_ms", usage.decode_seconds * 1e3},
       {"predicted_per_second", rate(usage.output_tokens - 1, usage.decode_seconds)}});
}

Entries start(const AnswerHeader& header, const char* object) {
  return {
      {"id", header.id}, {"object", object}, {"created", header.created}, {"model", header.model}};
}

Value finish_value(const serving::TextDelta& delta) {
  return delta.finished ? Value(engine::finish_reason_name(delta.reason)) : Value(nullptr);
}

}  // namespace

void UsageTotals::add(const engine::Usage& usage, bool first_of_prompt) {
  if (first_of_prompt) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.cached_tokens += usage.cached_tokens;
  }
  sum.output_tokens += usage.output_tokens;
  sum.queue_seconds += usage.queue_seconds;
  sum.prefill_seconds += usage.prefill_seconds;
  sum.decode_seconds += usage.decode_seconds;
}

int64_t count_characters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

ApiError out_of_memory_error(std::string message) {
  return {503, "overloaded_error", std::move(message), "", "out_of_memory", 1};
}

ApiError refusal_error(const engine::Refusal& refusal) {
  using Kind = engine::Refusal::Kind;
  ApiError error;
  error.message = refusal.message;
  error.param = refusal.parameter;
  switch (refusal.kind) {
    case Kind::invalid:
      break;
    case Kind::too_long:
      error.code = "context_length_exceeded";
      break;
    case Kind::too_large:
      error.code = "state_memory_exceeded";
      break;
    case Kind::queue_full:
      error.status = 429;
      error.type = "overloaded_error";
      error.code = "queue_full";
      error.retry_after = 1;
      break;
    case Kind::out_of_memory:
      return out_of_memory_error(refusal.message);
    case Kind::shutting_down:
      error.status = 503;
      error.type = "overloaded_error";
      error.code = "shutting_down";
      error.retry_after = 5;
      break;
  }
  return error;
}

std::string error_body(const ApiError& error) {
  const auto text = [](const std::string& value) {
    return value.empty() ? Value(nullptr) : Value(text::sanitize_utf8(value));
  };
  return dump({{"error", Value::map({{"message", text::sanitize_utf8(error.message)},
                                     {"type", error.type},
                                     {"param", text(error.param)},
                                     {"code", text(error.code)}})}});
}

std::string chat_body(const AnswerHeader& header, const std::vector<Choice>& choices,
                      const UsageTotals& usage) {
  std::vector<Value> list;
  for (const Choice& choice : choices)
    list.push_back(Value::map(
        {{"index", choice.index},
         {"message",
          Value::map({{"role", "assistant"}, {"content", text::sanitize_utf8(choice.text)}})},
         {"logprobs", choice.with_logprobs ? chat_logprobs(choice.tokens) : Value(nullptr)},
         {"finish_reason", choice.finish_reason}}));
  Entries body = start(header, "chat.completion");
  body.emplace_back("choices", Value::list(std::move(list)));
  body.emplace_back("usage", usage_value(usage.sum));
  body.emplace_back("timings", timings_value(usage.sum));
  return dump(std::move(body));
}

std::string chat_chunk_body(const AnswerHeader& header, const serving::TextDelta& delta,
                            const ChunkPlace& place) {
  Entries content;
  if (place.first) content.emplace_back("role", "assistant");
  if (place.first || !delta.text.empty())
    content.emplace_back("content", text::sanitize_utf8(delta.text));
  Entries body = start(header, "chat.completion.chunk");
  body.emplace_back(
      "choices",
      Value::list({Value::map(
          {{"index", place.index},
           {"delta", Value::map(std::move(content))},
           {"logprobs", place.with_logprobs ? chat_logprobs(delta.tokens) : Value(nullptr)},
           {"finish_reason", finish_value(delta)}})}));
  return dump(std::move(body));
}

std::string completion_body(const AnswerHeader& header, const std::vector<Choice>& choices,
                            const UsageTotals& usage) {
  std::vector<Value> list;
  for (const Choice& choice : choices)
    list.push_back(
        Value::map({{"index", choice.index},
                    {"text", text::sanitize_utf8(choice.text)},
                    {"logprobs",
                     choice.with_logprobs ? completion_logprobs(choice.tokens, 0) : Value(nullptr)},
                    {"finish_reason", choice.finish_reason}}));
  Entries body = start(header, "text_completion");
  body.emplace_back("choices", Value::list(std::move(list)));
  body.emplace_back("usage", usage_value(usage.sum));
  body.emplace_back("timings", timings_value(usage.sum));
  return dump(std::move(body));
}

std::string completion_chunk_body(const AnswerHeader& header, const serving::TextDelta& delta,
                                  const ChunkPlace& place) {
  Entries body = start(header, "text_completion");
  body.emplace_back(
      "choices",
      Value::list({Value::map(
          {{"index", place.index},
           {"text", text::sanitize_utf8(delta.text)},
           {"logprobs", place.with_logprobs ? completion_logprobs(delta.tokens, place.text_offset)
                                            : Value(nullptr)},
           {"finish_reason", finish_value(delta)}})}));
  return dump(std::move(body));
}

std::string usage_chunk_body(const AnswerHeader& header, bool chat, const UsageTotals& usage) {
  Entries body = start(header, chat ? "chat.completion.chunk" : "text_completion");
  body.emplace_back("choices", Value::list({}));
  body.emplace_back("usage", usage_value(usage.sum));
  body.emplace_back("timings", timings_value(usage.sum));
  return dump(std::move(body));
}

std::string tokenize_body(const std::vector<int32_t>& tokens, const text::Tokenizer& tokenizer,
                          bool with_strings, int64_t context_length) {
  std::vector<Value> ids;
  std::vector<Value> strings;
  for (const int32_t token : tokens) {
    ids.emplace_back(int64_t{token});
    if (with_strings) strings.emplace_back(text::sanitize_utf8(tokenizer.token_bytes(token)));
  }
  return dump({{"count", static_cast<int64_t>(tokens.size())},
               {"max_model_len", context_length},
               {"tokens", Value::list(std::move(ids))},
               {"token_strs", with_strings ? Value::list(std::move(strings)) : Value(nullptr)}});
}

std::string detokenize_body(std::string_view text) { return dump({{"prompt", text}}); }

}  // namespace heddle::server
