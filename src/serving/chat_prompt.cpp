#include "serving/chat_prompt.h"

#include <algorithm>

namespace heddle::serving {
namespace {

// Template boundaries tried as checkpoints, from the end: a conversation is mostly continued or
// edited there.
constexpr size_t kRecentBoundaries = 3;

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
  HEDDLE_TRY(prompt.text, model.chat_template->render(messages, tools, render));
  // The template writes the beginning-of-sequence token itself if the model wants one.
  text::EncodeOptions encode;
  encode.add_special = false;
  encode.parse_special = true;
  prompt.tokens = model.tokenizer.encode(prompt.text, encode);

  // A boundary counts where the shorter conversation renders to a prefix of this one, in text and
  // in tokens.
  const auto& items = messages.items();
  std::vector<size_t> ends;
  if (items.size() > 1 && role_of(items[0]) == "system") ends.push_back(1);
  for (size_t end = items.size(); end > 1 && ends.size() < kRecentBoundaries + 1; --end)
    ends.push_back(end);
  render.add_generation_prompt = false;
  for (const size_t end : ends) {
    const auto head = text::Value::list({items.begin(), items.begin() + static_cast<int64_t>(end)});
    const auto text = model.chat_template->render(head, tools, render);
    if (!text || text->empty() || !std::string_view(prompt.text).starts_with(*text)) continue;
    const std::vector<int32_t> tokens = model.tokenizer.encode(*text, encode);
    if (tokens.size() <= prompt.tokens.size() &&
        std::equal(tokens.begin(), tokens.end(), prompt.tokens.begin()))
      prompt.checkpoints.push_back(static_cast<int64_t>(tokens.size()));
  }
  return prompt;
}

}  // namespace heddle::serving
