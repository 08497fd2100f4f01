#include "text/template/chat_template.h"

#include <fmt/format.h>

#include <atomic>

#include "text/template/jinja/interpreter.h"
#include "text/template/jinja/parser.h"

namespace heddle::text {
namespace {

using Entries = std::vector<std::pair<Value, Value>>;

tl::unexpected<Error> template_error(const PythonError& error) {
  if (error.line == 0) return fail("chat template: {}", error.message);
  return fail("chat template, line {}: {}", error.line, error.message);
}

// Models were trained under several names for a message's reasoning; templates read the first two.
Value with_reasoning_names(const Value& message) {
  if (!message.is_map()) return message;
  const Value* reasoning = nullptr;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* value = message.find(name);
    if (!reasoning && value && !value->is_none()) reasoning = value;
  }
  if (!reasoning) return message;
  Entries entries = {{"thinking", *reasoning}};
  const auto& given = message.as_map().entries;
  entries.insert(entries.end(), given.begin(), given.end());
  entries.emplace_back("reasoning_content", *reasoning);
  return Value::map(std::move(entries));
}

Value message(const char* role, Value content, Entries more = {}) {
  Entries entries = {{"role", role}, {"content", std::move(content)}};
  entries.insert(entries.end(), more.begin(), more.end());
  return Value::map(std::move(entries));
}

Value text_part(const char* text) {
  return Value::list({Value::map({{"type", "text"}, {"text", text}})});
}

Value tool_call(bool as_text) {
  const Value arguments =
      as_text ? Value(R"({"city": "PROBEARGUMENT"})") : Value::map({{"city", "PROBEARGUMENT"}});
  const Value function = Value::map({{"name", "probecall"}, {"arguments", arguments}});
  return Value::list(
      {Value::map({{"id", "call00001"}, {"type", "function"}, {"function", function}})});
}

Value tool_list() {
  const Value city = Value::map({{"type", "string"}, {"description", "name of the city"}});
  const Value parameters = Value::map({{"type", "object"},
                                       {"properties", Value::map({{"city", city}})},
                                       {"required", Value::list({Value("city")})}});
  const Value function =
      Value::map({{"name", "probetool"}, {"description", "a tool"}, {"parameters", parameters}});
  return Value::list({Value::map({{"type", "function"}, {"function", function}})});
}

}  // namespace

struct ChatTemplate::Parsed {
  std::string source;
  SpecialTokens tokens;
  jinja::Body body;
  mutable std::atomic<int64_t> renderings{0};
};

Result<ChatTemplate> ChatTemplate::parse(std::string source, SpecialTokens tokens) {
  auto parsed = std::make_shared<Parsed>();
  try {
    parsed->body = jinja::parse_template(source);
  } catch (const PythonError& error) {
    return template_error(error);
  }
  parsed->source = std::move(source);
  parsed->tokens = std::move(tokens);
  return ChatTemplate(std::move(parsed));
}

const std::string& ChatTemplate::source() const { return parsed_->source; }

int64_t ChatTemplate::renderings() const { return parsed_->renderings.load(); }

Result<std::string> ChatTemplate::render(const Value& messages, const Value& tools,
                                         const RenderOptions& options,
                                         std::vector<int64_t>* ends) const {
  ++parsed_->renderings;
  if (!messages.is_list()) return fail("chat template: messages must be a list");
  if (messages.depth() > kMaxValueDepth || tools.depth() > kMaxValueDepth ||
      options.extra.depth() > kMaxValueDepth) {
    return fail("chat template: the input nests deeper than {} levels", kMaxValueDepth);
  }
  std::vector<Value> named;
  named.reserve(messages.items().size());
  for (const Value& item : messages.items()) named.push_back(with_reasoning_names(item));

  std::vector<std::pair<std::string, Value>> variables;
  const SpecialTokens& tokens = parsed_->tokens;
  if (!tokens.bos.empty()) variables.emplace_back("bos_token", tokens.bos);
  if (!tokens.eos.empty()) variables.emplace_back("eos_token", tokens.eos);
  for (const auto& [name, text] : tokens.others) variables.emplace_back(name, text);
  const Value list = Value::list(std::move(named));
  variables.emplace_back("messages", list);
  variables.emplace_back("tools", tools.is_undefined() ? Value(nullptr) : tools);
  variables.emplace_back("documents", Value(nullptr));
  variables.emplace_back("add_generation_prompt", options.add_generation_prompt);
  if (options.extra.is_map()) {
    for (const auto& [key, value] : options.extra.as_map().entries) {
      if (key.is_string()) variables.emplace_back(key.as_string(), value);
    }
  }
  const jinja::Interpreter::Limits limits{.steps = options.limits.steps,
                                          .bytes = options.limits.bytes,
                                          .output_bytes = options.limits.output_bytes,
                                          .depth = options.limits.depth};
  try {
    jinja::Interpreter interpreter(limits, options.now);
    std::string text = interpreter.render(parsed_->body, std::move(variables), list);
    if (ends != nullptr) *ends = interpreter.ends();
    return text;
  } catch (const PythonError& error) {
    return template_error(error);
  }
}

ChatCapabilities ChatTemplate::capabilities() const {
  RenderOptions options;
  options.now.emplace();  // any day but today's, so that the answer never depends on the clock
  options.now->tm_mday = 1;
  options.now->tm_year = 100;
  const auto shows = [&](std::vector<Value> messages, const Value& tools, std::string_view word) {
    const auto text = render(Value::list(std::move(messages)), tools, options);
    return text && text->find(word) != std::string::npos;
  };
  const Value none(nullptr), user = message("user", "PROBEUSER"),
                             answer = message("assistant", "yes");
  const Value tools = tool_list();
  const auto call = [](bool as_text) {
    return message("assistant", "", {{"tool_calls", tool_call(as_text)}});
  };
  const Value result =
      message("tool", "PROBERESULT", {{"tool_call_id", "call00001"}, {"name", "probecall"}});

  ChatCapabilities found;
  found.system_role = shows({message("system", "PROBESYSTEM"), user}, none, "PROBESYSTEM");
  found.tools = shows({user}, tools, "probetool");
  const bool with_object = shows({user, call(false), result}, tools, "PROBEARGUMENT");
  const bool with_text = shows({user, call(true), result}, tools, "PROBEARGUMENT");
  found.tool_calls = with_object || with_text;
  found.object_arguments = with_object && !with_text;
  found.tool_results = shows({user, call(!with_object), result}, tools, "PROBERESULT");
  const Value thought =
      message("assistant", "",
              {{"reasoning_content", "PROBETHOUGHT"}, {"tool_calls", tool_call(!with_object)}});
  const Value thought_answer = message("assistant", "yes", {{"reasoning_content", "PROBETHOUGHT"}});
  found.reasoning = shows({user, thought, result}, tools, "PROBETHOUGHT") ||
                    shows({user, thought_answer}, none, "PROBETHOUGHT");
  found.list_content =
      shows({message("user", text_part("PROBEPART")), answer, user}, none, "PROBEPART") &&
      !shows({message("user", text_part("PROBEPART")), answer, user}, none, "'type'");
  return found;
}

}  // namespace heddle::text
