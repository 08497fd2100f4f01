#include "serving/chat_prompt.h"

#include <algorithm>
#include <iterator>

namespace heddle::serving {
namespace {

// The end of the system prompt and those of the last messages: a conversation is mostly continued
// or edited there.
constexpr size_t kCheckpoints = 4;

std::string role_of(const text::Value& message) {
  const text::Value* role = message.find("role");
  return role != nullptr && role->is_string() ? role->as_string() : std::string();
}

}  // namespace

Result<ChatPrompt> render_chat(const ModelHandle& model, const text::Value& messages,
                               const text::Value& tools, const ChatOptions& options) {
  if (model.chat_template == nullptr)
    return fail("model {} has no chat template: use plain completions", model.name);
  text::RenderOptions render;
  render.add_generation_prompt = options.add_generation_prompt;
  render.extra = options.template_arguments;
  ChatPrompt prompt;
  std::vector<int64_t> bytes;  // at which messages end
  HEDDLE_TRY(prompt.text, model.chat_template->render(messages, tools, render, &bytes));
  // The template writes the beginning-of-sequence token itself if the model wants one.
  text::EncodeOptions encode;
  encode.add_special = false;
  encode.parse_special = true;
  std::vector<int64_t> marks;
  std::copy_if(bytes.begin(), bytes.end(), std::back_inserter(marks),
               [](int64_t at) { return at >= 0; });
  std::vector<int64_t> counts;
  prompt.tokens = model.tokenizer.encode(prompt.text, encode, marks, counts);
  size_t known = 0;
  for (const int64_t at : bytes) prompt.ends.push_back(at < 0 ? -1 : counts[known++]);

  const auto& items = messages.items();
  std::vector<size_t> chosen;
  if (items.size() > 1 && role_of(items[0]) == "system") chosen.push_back(0);
  for (size_t i = items.size(); i-- > 1 && chosen.size() < kCheckpoints;) chosen.push_back(i);
  for (const size_t message : chosen)
    if (prompt.ends[message] > 0) prompt.checkpoints.push_back(prompt.ends[message]);
  return prompt;
}

}  // namespace heddle::serving
