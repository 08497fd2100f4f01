// Renders chat templates for scripts: one JSON object a line in, one a line out.
//
//   in:  {"template": TEXT, "messages": [...], "tools": [...] or null, "extra": {...},
//   "add_generation_prompt": true,
//         "tokens": {"bos_token": TEXT, ...}, "now": [year, month, day, hour, minute, second,
//         weekday, day of the year]}
//   out: {"ok": true, "text": TEXT} or {"ok": false, "error": TEXT}
//
// `weekday` counts from Sunday = 0, `day of the year` from 0. Everything but template and messages
// may be left out.
#include <iostream>
#include <map>
#include <string>

#include "text/template/chat_template.h"

namespace {

using heddle::Result;
using heddle::text::ChatTemplate;
using heddle::text::Value;

heddle::text::RenderOptions read_options(const Value& request) {
  heddle::text::RenderOptions options;
  if (const Value* flag = request.find("add_generation_prompt"); flag && flag->is_bool()) {
    options.add_generation_prompt = flag->as_bool();
  }
  if (const Value* extra = request.find("extra")) options.extra = *extra;
  const Value* now = request.find("now");
  if (now && now->is_list() && now->items().size() == 8) {
    const auto field = [&](size_t i) {
      return now->items()[i].is_int() ? static_cast<int>(now->items()[i].as_int()) : 0;
    };
    options.now.emplace();
    options.now->tm_year = field(0) - 1900;
    options.now->tm_mon = field(1) - 1;
    options.now->tm_mday = field(2);
    options.now->tm_hour = field(3);
    options.now->tm_min = field(4);
    options.now->tm_sec = field(5);
    options.now->tm_wday = field(6);
    options.now->tm_yday = field(7);
  }
  return options;
}

Result<std::string> answer(const std::string& line, std::map<std::string, ChatTemplate>& parsed) {
  HEDDLE_TRY(const Value request, heddle::text::parse_json(line));
  const Value* source = request.find("template");
  const Value* messages = request.find("messages");
  if (!source || !source->is_string() || !messages) {
    return heddle::fail("request: expected a string `template` and `messages`");
  }
  heddle::text::SpecialTokens tokens;
  std::string key = source->as_string();
  if (const Value* given = request.find("tokens"); given && given->is_map()) {
    for (const auto& [name, text] : given->as_map().entries) {
      tokens.others.emplace_back(name.as_string(), text.is_string() ? text.as_string() : "");
      key += '\0' + name.as_string() + '\0' + tokens.others.back().second;
    }
  }
  auto place = parsed.find(key);
  if (place == parsed.end()) {
    HEDDLE_TRY(ChatTemplate made, ChatTemplate::parse(source->as_string(), tokens));
    place = parsed.emplace(key, std::move(made)).first;
  }
  const Value* tools = request.find("tools");
  return place->second.render(*messages, tools ? *tools : Value(nullptr), read_options(request));
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  std::map<std::string, ChatTemplate> parsed;
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto text = answer(line, parsed);
    const Value reply = text ? Value::map({{"ok", true}, {"text", *text}})
                             : Value::map({{"ok", false}, {"error", text.error().message}});
    std::cout << *heddle::text::to_json(reply) << "\n" << std::flush;
  }
}
