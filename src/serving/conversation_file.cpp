#include "serving/conversation_file.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "text/template/value.h"

namespace heddle::serving {
namespace {

using text::Value;

constexpr uint32_t kVersion = 1;
constexpr size_t kPrefixBytes = 8 + 4 + 4 + 8 + 8;
constexpr size_t kChecksumBytes = 16;
constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr int64_t kMaxRetries = int64_t{1} << 30;

template <class T>
void append_number(std::vector<std::byte>& out, T number) {
  static_assert(std::is_integral_v<T>);
  const auto* bytes = reinterpret_cast<const std::byte*>(&number);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

void append_text(std::vector<std::byte>& out, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

template <class T>
T number_at(std::span<const std::byte> bytes, size_t at) {
  T number;
  std::memcpy(&number, bytes.data() + at, sizeof(T));
  return number;
}

std::string hex(const Hash128& hash) { return fmt::format("{:016x}{:016x}", hash.high, hash.low); }

// The fields of one JSON object, each required.
class Fields {
 public:
  Fields(const Value& object, std::string_view where, std::string name)
      : object_(object), where_(where), name_(std::move(name)) {}

  Result<const Value*> get(std::string_view key, bool (Value::*is)() const,
                           std::string_view expected) const {
    const Value* value = object_.find(key);
    if (value == nullptr || !(value->*is)())
      return fail("{}: {}{} of the conversation: expected {}", where_, name_, key, expected);
    return value;
  }
  Result<std::string> text(std::string_view key) const {
    HEDDLE_TRY(const Value* value, get(key, &Value::is_string, "a text"));
    return value->as_string();
  }
  Result<int64_t> integer(std::string_view key, int64_t low, int64_t high) const {
    HEDDLE_TRY(const Value* value, get(key, &Value::is_int, "a whole number"));
    if (value->as_int() < low || value->as_int() > high)
      return fail("{}: {}{} of the conversation is {}, expected {} to {}", where_, name_, key,
                  value->as_int(), low, high);
    return value->as_int();
  }
  Result<double> number(std::string_view key) const {
    const Value* value = object_.find(key);
    if (value != nullptr && value->is_int()) return static_cast<double>(value->as_int());
    HEDDLE_TRY(value, get(key, &Value::is_double, "a number"));
    return value->as_double();
  }

 private:
  const Value& object_;
  std::string_view where_;
  std::string name_;
};

Result<std::string> text_of(const ConversationFile& conversation) {
  std::vector<Value> messages;
  for (const Message& message : conversation.messages)
    messages.push_back(Value::map({{"role", message.role}, {"content", message.content}}));
  const engine::SamplingParams& sampling = conversation.settings.sampling;
  const Value body = Value::map({
      {"model", conversation.model},
      {"weights", hex(conversation.weights)},
      {"system", conversation.settings.system},
      {"messages", Value::list(std::move(messages))},
      {"sampling", Value::map({{"temperature", sampling.temperature},
                               {"top_k", sampling.top_k},
                               {"top_p", sampling.top_p},
                               {"min_p", sampling.min_p},
                               {"repetition_penalty", sampling.repetition_penalty},
                               {"presence_penalty", sampling.presence_penalty},
                               {"frequency_penalty", sampling.frequency_penalty},
                               {"seed", fmt::format("{}", sampling.seed)}})},
      {"max_tokens", conversation.settings.max_tokens},
      {"retries", conversation.retries},
  });
  text::JsonOptions options;
  options.max_bytes = kMaxConversationText;
  return text::to_json(body, options);
}

Result<engine::SamplingParams> sampling_of(const Value& object, std::string_view where) {
  engine::SamplingParams sampling;
  const Fields fields(object, where, "sampling.");
  HEDDLE_TRY(sampling.temperature, fields.number("temperature"));
  HEDDLE_TRY(sampling.top_k, fields.integer("top_k", 0, INT32_MAX));
  HEDDLE_TRY(sampling.top_p, fields.number("top_p"));
  HEDDLE_TRY(sampling.min_p, fields.number("min_p"));
  HEDDLE_TRY(sampling.repetition_penalty, fields.number("repetition_penalty"));
  HEDDLE_TRY(sampling.presence_penalty, fields.number("presence_penalty"));
  HEDDLE_TRY(sampling.frequency_penalty, fields.number("frequency_penalty"));
  HEDDLE_TRY(const std::string seed, fields.text("seed"));
  const auto [end, error] = std::from_chars(seed.data(), seed.data() + seed.size(), sampling.seed);
  if (error != std::errc() || end != seed.data() + seed.size())
    return fail("{}: sampling.seed of the conversation: expected a number of 64 bits", where);
  if (auto valid = engine::validate(sampling, INT32_MAX); !valid)
    return fail("{}: sampling of the conversation: {}", where, valid.error().message);
  return sampling;
}

Result<std::vector<Message>> messages_of(const Value& list, std::string_view where) {
  std::vector<Message> messages;
  for (const Value& item : list.items()) {
    const size_t index = messages.size();
    const Fields fields(item, where, fmt::format("messages[{}].", index));
    Message message;
    HEDDLE_TRY(message.role, fields.text("role"));
    HEDDLE_TRY(message.content, fields.text("content"));
    const std::string_view expected = index % 2 == 0 ? "user" : "assistant";
    if (message.role != expected)
      return fail("{}: messages[{}].role of the conversation: expected {}", where, index, expected);
    messages.push_back(std::move(message));
  }
  if (messages.size() % 2 != 0)
    return fail("{}: the last message of the conversation has no answer", where);
  return messages;
}

Result<void> read_text(std::string_view json, std::string_view where, ConversationFile& to) {
  text::JsonLimits limits;
  limits.max_depth = 8;
  limits.max_bytes = kMaxConversationText;
  auto body = text::parse_json(json, limits);
  if (!body) return fail("{}: text of the conversation: {}", where, body.error().message);
  const Fields fields(*body, where, "");
  HEDDLE_TRY(to.model, fields.text("model"));
  HEDDLE_TRY(const std::string weights, fields.text("weights"));
  const auto half = [&](size_t at, uint64_t& value) {
    const auto [end, error] =
        std::from_chars(weights.data() + at, weights.data() + at + 16, value, 16);
    return error == std::errc() && end == weights.data() + at + 16;
  };
  if (weights.size() != 32 || !half(0, to.weights.high) || !half(16, to.weights.low))
    return fail("{}: weights of the conversation: expected 32 hexadecimal digits", where);
  HEDDLE_TRY(to.settings.system, fields.text("system"));
  HEDDLE_TRY(const Value* messages, fields.get("messages", &Value::is_list, "a list"));
  HEDDLE_TRY(to.messages, messages_of(*messages, where));
  HEDDLE_TRY(const Value* sampling, fields.get("sampling", &Value::is_map, "an object"));
  HEDDLE_TRY(to.settings.sampling, sampling_of(*sampling, where));
  HEDDLE_TRY(to.settings.max_tokens, fields.integer("max_tokens", 1, kMaxTokens));
  HEDDLE_TRY(to.retries, fields.integer("retries", 0, kMaxRetries));
  return {};
}

}  // namespace

Result<std::vector<std::byte>> encode_conversation(const ConversationFile& conversation) {
  if (!conversation.settings.sampling.logit_bias.empty())
    return fail("a conversation with a logit_bias cannot be saved: the format has no place for it");
  HEDDLE_TRY(const std::string text, text_of(conversation));
  std::vector<std::byte> out;
  out.reserve(kPrefixBytes + text.size() + conversation.snapshot.size() + kChecksumBytes);
  append_text(out, kConversationMagic);
  append_number(out, kVersion);
  append_number(out, uint32_t{0});
  append_number(out, static_cast<uint64_t>(text.size()));
  append_number(out, static_cast<uint64_t>(conversation.snapshot.size()));
  append_text(out, text);
  out.insert(out.end(), conversation.snapshot.begin(), conversation.snapshot.end());
  const Hash128 checksum = hash128(out);
  append_number(out, checksum.low);
  append_number(out, checksum.high);
  return out;
}

Result<ConversationFile> decode_conversation(std::span<const std::byte> bytes,
                                             std::string_view where) {
  if (bytes.size() < kPrefixBytes + kChecksumBytes)
    return fail("{}: {} bytes are too few for a conversation; expected at least {}", where,
                bytes.size(), kPrefixBytes + kChecksumBytes);
  if (std::memcmp(bytes.data(), kConversationMagic.data(), kConversationMagic.size()) != 0)
    return fail("{}: no conversation: expected the first bytes to be {}", where,
                kConversationMagic);
  const auto version = number_at<uint32_t>(bytes, 8);
  const auto zero = number_at<uint32_t>(bytes, 12);
  const auto text_bytes = number_at<uint64_t>(bytes, 16);
  const auto snapshot_bytes = number_at<uint64_t>(bytes, 24);
  if (version != kVersion || zero != 0)
    return fail("{}: conversation format {}.{}; expected {}.0", where, version, zero, kVersion);
  const uint64_t room = bytes.size() - kPrefixBytes - kChecksumBytes;
  if (text_bytes > room || snapshot_bytes != room - text_bytes)
    return fail("{}: conversation of {} bytes says text {} and snapshot {}; cut short or damaged",
                where, bytes.size(), text_bytes, snapshot_bytes);
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  const Hash128 stored = {number_at<uint64_t>(bytes, body.size()),
                          number_at<uint64_t>(bytes, body.size() + 8)};
  if (const Hash128 computed = hash128(body); stored != computed)
    return fail("{}: damaged conversation: checksum {}, expected {}", where, hex(computed),
                hex(stored));
  ConversationFile conversation;
  const auto text = bytes.subspan(kPrefixBytes, static_cast<size_t>(text_bytes));
  HEDDLE_TRY_STATUS(
      read_text({reinterpret_cast<const char*>(text.data()), text.size()}, where, conversation));
  const auto snapshot = bytes.subspan(kPrefixBytes + static_cast<size_t>(text_bytes),
                                      static_cast<size_t>(snapshot_bytes));
  conversation.snapshot.assign(snapshot.begin(), snapshot.end());
  return conversation;
}

}  // namespace heddle::serving
