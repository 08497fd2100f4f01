#include "server/request_log.h"

#include "text/template/value.h"

namespace heddle::server {
namespace {

using text::Value;

double rate(int64_t count, double seconds) {
  return seconds > 0 && count > 0 ? static_cast<double>(count) / seconds : 0.0;
}

// Lines stay lines, terminals safe and JSON UTF-8, whatever a client calls its path.
std::string plain(const std::string& text) {
  std::string result;
  for (const char c : text.substr(0, 200)) result += c >= 0x20 && c < 0x7f ? c : '?';
  return result.empty() ? "-" : result;
}

}  // namespace

std::string record_text(const RequestRecord& record) {
  if (record.id.empty())
    return fmt::format("{} {} {} from {}", plain(record.method), plain(record.path), record.status,
                       record.peer);
  const engine::Usage& usage = record.usage;
  const int64_t read = usage.prompt_tokens - usage.cached_tokens;
  return fmt::format(
      "{} {} {} prompt {} (cached {}, {:.0f} tok/s) output {} ({:.1f} tok/s) queue {:.0f} ms total "
      "{:.2f} s",
      record.id, record.path, record.outcome, usage.prompt_tokens, usage.cached_tokens,
      rate(read, usage.prefill_seconds), usage.output_tokens,
      rate(usage.output_tokens - record.choices, usage.decode_seconds), usage.queue_seconds * 1e3,
      record.seconds);
}

std::string record_json(const RequestRecord& record) {
  std::vector<std::pair<Value, Value>> entries = {
      {"event", "request"},  {"method", plain(record.method)},   {"path", plain(record.path)},
      {"peer", record.peer}, {"status", int64_t{record.status}}, {"seconds", record.seconds}};
  if (!record.id.empty()) {
    const engine::Usage& usage = record.usage;
    for (auto& [key, value] :
         std::vector<std::pair<Value, Value>>{{"id", record.id},
                                              {"outcome", record.outcome},
                                              {"choices", record.choices},
                                              {"prompt_tokens", usage.prompt_tokens},
                                              {"cached_tokens", usage.cached_tokens},
                                              {"output_tokens", usage.output_tokens},
                                              {"queue_seconds", usage.queue_seconds},
                                              {"prefill_seconds", usage.prefill_seconds},
                                              {"decode_seconds", usage.decode_seconds}})
      entries.emplace_back(key, value);
  }
  const auto text = text::to_json(Value::map(std::move(entries)), {.ensure_ascii = true});
  return text ? *text : R"({"event":"request"})";
}

}  // namespace heddle::server
