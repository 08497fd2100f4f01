#include <cmath>
#include <limits>

#include "server/api/api.h"

namespace heddle::server {
namespace {

using text::Value;

constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxPrompts = 256;  // and choices of all prompts together
constexpr size_t kMaxBiases = 4096;
constexpr int64_t kMaxChoices = 64;

tl::unexpected<ApiError> bad(std::string param, std::string message) {
  ApiError error;
  error.param = std::move(param);
  error.message = std::move(message);
  return tl::unexpected(std::move(error));
}

#define API_TRY_STATUS(expr)                                               \
  do {                                                                     \
    auto api_status = (expr);                                              \
    if (!api_status) return tl::unexpected(std::move(api_status).error()); \
  } while (0)

// Absent and null are the same, as in the API.
const Value* field(const Value& body, std::string_view name) {
  const Value* value = body.find(name);
  return value == nullptr || value->is_none() ? nullptr : value;
}

ApiResult<void> read_number(const Value& body, const char* name, double& out) {
  const Value* value = field(body, name);
  if (value == nullptr) return {};
  if (value->is_int()) {
    out = static_cast<double>(value->as_int());
  } else if (value->is_double()) {
    out = value->as_double();
  } else {
    return bad(name, fmt::format("{}: a number is expected", name));
  }
  if (!std::isfinite(out)) return bad(name, fmt::format("{}: a finite number is expected", name));
  return {};
}

ApiResult<void> read_integer(const Value& body, const char* name, int64_t& out) {
  const Value* value = field(body, name);
  if (value == nullptr) return {};
  if (value->is_int()) {
    out = value->as_int();
  } else if (value->is_double() && std::abs(value->as_double()) < 9e15 &&
             std::floor(value->as_double()) == value->as_double()) {
    out = static_cast<int64_t>(value->as_double());
  } else {
    return bad(name, fmt::format("{}: an integer is expected", name));
  }
  return {};
}

ApiResult<void> read_bool(const Value& body, const char* name, bool& out) {
  const Value* value = field(body, name);
  if (value == nullptr) return {};
  if (!value->is_bool()) return bad(name, fmt::format("{}: true or false is expected", name));
  out = value->as_bool();
  return {};
}

ApiResult<void> read_stops(const Value& body, serving::GenerationRequest& out) {
  const Value* stop = field(body, "stop");
  if (stop == nullptr) return {};
  if (stop->is_string()) {
    out.stops.push_back(stop->as_string());
  } else if (stop->is_list()) {
    for (const Value& item : stop->items()) {
      if (!item.is_string()) return bad("stop", "stop: a string or a list of strings is expected");
      out.stops.push_back(item.as_string());
    }
  } else {
    return bad("stop", "stop: a string or a list of strings is expected");
  }
  if (out.stops.size() > kMaxStops)
    return bad("stop", fmt::format("stop: at most {} strings are expected", kMaxStops));
  for (const std::string& text : out.stops) {
    if (text.empty()) return bad("stop", "stop: an empty string would stop at once");
    if (text.size() > kMaxStopBytes)
      return bad("stop", fmt::format("stop: at most {} bytes each are expected", kMaxStopBytes));
  }
  return {};
}

ApiResult<void> read_logit_bias(const Value& body, engine::SamplingParams& out) {
  const Value* bias = field(body, "logit_bias");
  if (bias == nullptr) return {};
  if (!bias->is_map())
    return bad("logit_bias", "logit_bias: a map from token id to bias is expected");
  if (bias->as_map().entries.size() > kMaxBiases)
    return bad("logit_bias", fmt::format("logit_bias: at most {} are expected", kMaxBiases));
  for (const auto& [key, value] : bias->as_map().entries) {
    const std::string& text = key.as_string();
    int64_t token = 0;
    bool digits = !text.empty() && text.size() <= 9;
    for (const char c : text) {
      digits = digits && c >= '0' && c <= '9';
      if (digits) token = token * 10 + (c - '0');
    }
    if (!digits || !(value.is_int() || value.is_double()))
      return bad("logit_bias", "logit_bias: a map from token id to a number is expected");
    const double number = value.is_int() ? static_cast<double>(value.as_int()) : value.as_double();
    out.logit_bias.emplace_back(static_cast<int32_t>(token), static_cast<float>(number));
  }
  return {};
}

// The fields that chat and plain completions share.
ApiResult<void> read_generation(const Value& body, const ApiDefaults& defaults,
                                serving::GenerationRequest& out) {
  engine::SamplingParams& sampling = out.engine.sampling;
  out.engine.max_tokens = defaults.max_tokens;
  API_TRY_STATUS(read_integer(body, "max_tokens", out.engine.max_tokens));
  API_TRY_STATUS(read_integer(body, "max_completion_tokens", out.engine.max_tokens));
  if (out.engine.max_tokens < 0) return bad("max_tokens", "max_tokens: 0 or more is expected");
  API_TRY_STATUS(read_number(body, "temperature", sampling.temperature));
  API_TRY_STATUS(read_number(body, "top_p", sampling.top_p));
  API_TRY_STATUS(read_integer(body, "top_k", sampling.top_k));
  if (sampling.top_k == -1) sampling.top_k = 0;  // some clients write "all" so
  API_TRY_STATUS(read_number(body, "min_p", sampling.min_p));
  API_TRY_STATUS(read_number(body, "presence_penalty", sampling.presence_penalty));
  API_TRY_STATUS(read_number(body, "frequency_penalty", sampling.frequency_penalty));
  API_TRY_STATUS(read_number(body, "repetition_penalty", sampling.repetition_penalty));
  auto seed = static_cast<int64_t>(defaults.seed);
  API_TRY_STATUS(read_integer(body, "seed", seed));
  sampling.seed = static_cast<uint64_t>(seed);
  API_TRY_STATUS(read_bool(body, "ignore_eos", out.ignore_end));
  API_TRY_STATUS(read_stops(body, out));
  API_TRY_STATUS(read_logit_bias(body, sampling));
  if (auto status = engine::validate(sampling, std::numeric_limits<int32_t>::max()); !status)
    return bad(status.error().parameter, status.error().message);
  return {};
}

ApiResult<void> read_choices(const Value& body, int64_t& n) {
  API_TRY_STATUS(read_integer(body, "n", n));
  if (n < 1 || n > kMaxChoices) return bad("n", fmt::format("n: 1 to {} is expected", kMaxChoices));
  int64_t best_of = n;
  API_TRY_STATUS(read_integer(body, "best_of", best_of));
  if (best_of != n) return bad("best_of", "best_of: only n itself is supported");
  return {};
}

ApiResult<void> read_stream(const Value& body, bool& stream, bool& include_usage) {
  API_TRY_STATUS(read_bool(body, "stream", stream));
  const Value* options = field(body, "stream_options");
  if (options == nullptr) return {};
  if (!options->is_map()) return bad("stream_options", "stream_options: a map is expected");
  return read_bool(*options, "include_usage", include_usage);
}

ApiResult<Value> parse_body(std::string_view body) {
  auto value = text::parse_json(body);
  if (!value) return bad("", fmt::format("the body is not JSON: {}", value.error().message));
  if (!value->is_map()) return bad("", "the body is not a JSON object");
  const Value* model = field(*value, "model");
  if (model != nullptr && !model->is_string()) return bad("model", "model: a string is expected");
  return *value;
}

// A list of {"type": "text", "text": ...} parts is read as its text, one part a line.
ApiResult<Value> plain_content(const Value& content, size_t index) {
  const std::string where = fmt::format("messages[{}].content", index);
  if (content.is_string() || content.is_none()) return content;
  if (!content.is_list())
    return bad("messages", where + ": a string or a list of parts is expected");
  std::string joined;
  for (const Value& part : content.items()) {
    const Value* type = part.find("type");
    const Value* text = part.find("text");
    if (type == nullptr || !type->is_string() || type->as_string() != "text" || text == nullptr ||
        !text->is_string())
      return bad("messages", where + ": only parts of type text are supported");
    if (!joined.empty()) joined += '\n';
    joined += text->as_string();
  }
  return Value(std::move(joined));
}

ApiResult<Value> read_messages(const Value& body) {
  const Value* messages = field(body, "messages");
  if (messages == nullptr || !messages->is_list())
    return bad("messages", "messages: a list is expected");
  const auto& items = messages->items();
  if (items.empty()) return bad("messages", "messages: at least one message is expected");
  if (items.size() > kMaxMessages)
    return bad("messages", fmt::format("messages: at most {} are expected", kMaxMessages));
  std::vector<Value> result;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_map())
      return bad("messages", fmt::format("messages[{}]: a map is expected", i));
    const Value* role = items[i].find("role");
    if (role == nullptr || !role->is_string() || role->as_string().empty())
      return bad("messages", fmt::format("messages[{}].role: a string is expected", i));
    const Value* content = items[i].find("content");
    if (content == nullptr && items[i].find("tool_calls") == nullptr)
      return bad("messages", fmt::format("messages[{}].content: a string is expected", i));
    std::vector<std::pair<Value, Value>> entries;
    for (const auto& [key, value] : items[i].as_map().entries) {
      if (key.as_string() != "content") {
        entries.emplace_back(key, value);
        continue;
      }
      auto plain = plain_content(value, i);
      if (!plain) return tl::unexpected(plain.error());
      entries.emplace_back(key, *plain);
    }
    result.push_back(Value::map(std::move(entries)));
  }
  return Value::list(std::move(result));
}

ApiResult<std::vector<int32_t>> read_ids(const Value& list, const char* name) {
  std::vector<int32_t> ids;
  for (const Value& item : list.items()) {
    if (!item.is_int() || item.as_int() < 0 || item.as_int() > std::numeric_limits<int32_t>::max())
      return bad(name, fmt::format("{}: a list of token ids is expected", name));
    ids.push_back(static_cast<int32_t>(item.as_int()));
  }
  return ids;
}

ApiResult<void> read_prompts(const Value& body, CompletionRequest& out) {
  const char* expected =
      "prompt: a string, a list of strings, token ids or a list of them is expected";
  const Value* prompt = field(body, "prompt");
  if (prompt == nullptr) return bad("prompt", expected);
  if (prompt->is_string()) {
    out.prompts.emplace_back(prompt->as_string());
    return {};
  }
  if (!prompt->is_list() || prompt->items().empty()) return bad("prompt", expected);
  const auto& items = prompt->items();
  if (items[0].is_int()) {
    auto ids = read_ids(*prompt, "prompt");
    if (!ids) return tl::unexpected(ids.error());
    out.prompts.emplace_back(std::move(*ids));
    return {};
  }
  if (items.size() > kMaxPrompts)
    return bad("prompt", fmt::format("prompt: at most {} prompts are expected", kMaxPrompts));
  for (const Value& item : items) {
    if (item.is_string()) {
      out.prompts.emplace_back(item.as_string());
    } else if (item.is_list()) {
      auto ids = read_ids(item, "prompt");
      if (!ids) return tl::unexpected(ids.error());
      out.prompts.emplace_back(std::move(*ids));
    } else {
      return bad("prompt", expected);
    }
  }
  return {};
}

// What a chat template reads.
ApiResult<void> read_conversation(const Value& body, ChatRequest& request) {
  auto messages = read_messages(body);
  if (!messages) return tl::unexpected(messages.error());
  request.messages = *messages;
  if (const Value* tools = field(body, "tools")) {
    if (!tools->is_list()) return bad("tools", "tools: a list is expected");
    for (const Value& tool : tools->items())
      if (!tool.is_map()) return bad("tools", "tools: a list of maps is expected");
    const Value* choice = field(body, "tool_choice");
    const bool none = choice != nullptr && choice->is_string() && choice->as_string() == "none";
    if (!tools->items().empty() && !none) request.tools = *tools;
  }
  if (const Value* arguments = field(body, "chat_template_kwargs")) {
    if (!arguments->is_map())
      return bad("chat_template_kwargs", "chat_template_kwargs: a map is expected");
    request.template_arguments = *arguments;
  }
  return read_bool(body, "add_generation_prompt", request.add_generation_prompt);
}

}  // namespace

ApiResult<ChatRequest> parse_chat_request(std::string_view text, const ApiDefaults& defaults) {
  auto body = parse_body(text);
  if (!body) return tl::unexpected(body.error());
  ChatRequest request;
  API_TRY_STATUS(read_conversation(*body, request));
  if (const Value* format = field(*body, "response_format")) {
    const Value* type = format->find("type");
    if (type == nullptr || !type->is_string() || type->as_string() != "text")
      return bad("response_format", "response_format: only {\"type\": \"text\"} is supported");
  }
  API_TRY_STATUS(read_generation(*body, defaults, request.generation));
  API_TRY_STATUS(read_choices(*body, request.n));
  if (request.generation.engine.max_tokens == 0)
    return bad("max_tokens", "max_tokens: 1 or more is expected");
  API_TRY_STATUS(read_stream(*body, request.stream, request.include_usage));
  bool logprobs = false;
  int64_t top_logprobs = 0;
  API_TRY_STATUS(read_bool(*body, "logprobs", logprobs));
  API_TRY_STATUS(read_integer(*body, "top_logprobs", top_logprobs));
  if (top_logprobs < 0 || top_logprobs > 20)
    return bad("top_logprobs", "top_logprobs: 0 to 20 is expected");
  if (top_logprobs > 0 && !logprobs)
    return bad("top_logprobs", "top_logprobs: needs \"logprobs\": true");
  if (logprobs) request.generation.engine.sampling.logprobs = static_cast<int>(top_logprobs);
  return request;
}

ApiResult<TokenizeRequest> parse_tokenize_request(std::string_view text) {
  auto body = parse_body(text);
  if (!body) return tl::unexpected(body.error());
  TokenizeRequest request;
  const Value* prompt = field(*body, "prompt");
  if ((prompt != nullptr) == (field(*body, "messages") != nullptr))
    return bad("prompt", "prompt: a string is expected, or messages instead");
  if (prompt != nullptr) {
    if (!prompt->is_string()) return bad("prompt", "prompt: a string is expected");
    request.prompt = prompt->as_string();
  } else {
    API_TRY_STATUS(read_conversation(*body, request.chat));
    request.add_special = false;  // templates write them themselves
  }
  API_TRY_STATUS(read_bool(*body, "add_special_tokens", request.add_special));
  API_TRY_STATUS(read_bool(*body, "return_token_strs", request.with_strings));
  return request;
}

ApiResult<std::vector<int32_t>> parse_detokenize_request(std::string_view text) {
  auto body = parse_body(text);
  if (!body) return tl::unexpected(body.error());
  const Value* tokens = field(*body, "tokens");
  if (tokens == nullptr || !tokens->is_list())
    return bad("tokens", "tokens: a list of token ids is expected");
  return read_ids(*tokens, "tokens");
}

ApiResult<CompletionRequest> parse_completion_request(std::string_view text,
                                                      const ApiDefaults& defaults) {
  auto body = parse_body(text);
  if (!body) return tl::unexpected(body.error());
  CompletionRequest request;
  API_TRY_STATUS(read_prompts(*body, request));
  if (field(*body, "suffix") != nullptr) return bad("suffix", "suffix: not supported");
  API_TRY_STATUS(read_generation(*body, defaults, request.generation));
  API_TRY_STATUS(read_choices(*body, request.n));
  API_TRY_STATUS(read_stream(*body, request.stream, request.include_usage));
  API_TRY_STATUS(read_bool(*body, "echo", request.echo));
  int64_t logprobs = -1;
  API_TRY_STATUS(read_integer(*body, "logprobs", logprobs));
  if (logprobs < -1 || logprobs > 20) return bad("logprobs", "logprobs: 0 to 20 is expected");
  request.generation.engine.sampling.logprobs = static_cast<int>(logprobs);
  request.generation.engine.score_prompt = request.echo && logprobs >= 0;
  if (request.generation.engine.max_tokens == 0 && !request.echo)
    return bad("max_tokens", "max_tokens: 1 or more is expected without echo");
  if (request.prompts.size() * static_cast<size_t>(request.n) > kMaxPrompts)
    return bad("n",
               fmt::format("n: at most {} choices over all prompts are expected", kMaxPrompts));
  return request;
}

}  // namespace heddle::server
