#pragma once
// ChatTemplate: the Jinja template of a model, which turns messages into the text of a prompt.
//
// It renders to the byte what Hugging Face transformers' apply_chat_template renders (Jinja2 with
// trim_blocks and lstrip_blocks, an immutable sandbox, loop controls, {% generation %}, tojson
// without HTML escapes, raise_exception, strftime_now). Messages reach the template as they are;
// nothing is renamed or filled in, except that reasoning given as `reasoning_content`, `thinking`
// or `reasoning` is offered under the first two names, as transformers does. A template is
// untrusted: steps, memory, output and recursion are bounded, and every failure is an error value.
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/template/value.h"

namespace heddle::text {

// Texts of a tokenizer's special tokens; an empty one is undefined in the template.
struct SpecialTokens {
  std::string bos;
  std::string eos;
  std::vector<std::pair<std::string, std::string>> others;  // {"pad_token", "<pad>"}, ...
};

struct TemplateLimits {
  int64_t steps = 20'000'000;               // evaluations and bytes touched: below a second or two
  int64_t bytes = int64_t{1} << 30;         // of all values ever made in one rendering
  int64_t output_bytes = int64_t{1} << 26;  // of the result, and of any one string
  int depth = 1500;                         // evaluations inside one another
};

struct RenderOptions {
  bool add_generation_prompt = true;  // end with the header of the assistant's answer
  // A map of further variables (enable_thinking, documents, custom flags, ...); they win over every
  // other variable.
  Value extra;
  std::optional<std::tm> now;  // for strftime_now; the local time of the call if absent
  TemplateLimits limits;
};

// What a template makes use of, found by rendering small conversations and looking for their words.
struct ChatCapabilities {
  bool system_role = false;       // a system message appears in the prompt
  bool tools = false;             // tool descriptions appear
  bool tool_calls = false;        // an assistant's tool calls appear
  bool tool_results = false;      // messages of the role `tool` appear
  bool reasoning = false;         // reasoning_content of the turn that is going on appears
  bool object_arguments = false;  // tool-call arguments must be objects (not JSON text)
  bool list_content = false;      // content may be a list of {"type": "text", ...} parts
};

class ChatTemplate {
 public:
  // Fails, with the line, on what Jinja refuses to compile, on tags that need other templates, and
  // above 1 MiB.
  static Result<ChatTemplate> parse(std::string source, SpecialTokens tokens = {});

  // `messages`: list of maps. `tools`: list of maps as in the OpenAI API, or none.
  // Fails, with the template's line, on raise_exception, on any error of Jinja, and beyond the
  // limits.
  // `ends`, if given, receives for each message the byte of the text at which it ends, or -1 where
  // the template does not write its messages one after the other. A shorter conversation may be
  // written otherwise: an end says where this text may be cut, not what another one would be.
  Result<std::string> render(const Value& messages, const Value& tools = nullptr,
                             const RenderOptions& options = {},
                             std::vector<int64_t>* ends = nullptr) const;
  // Renderings so far, for tests that count the work of a request.
  int64_t renderings() const;

  ChatCapabilities capabilities() const;

  const std::string& source() const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
  // Immutable but for a counter: copies share it, threads may render at once.
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace heddle::text
