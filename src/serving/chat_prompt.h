#pragma once
// A conversation as the model reads it: the template's text, its tokens, and the positions worth
// resuming from.
#include <cstdint>
#include <string>
#include <vector>

#include "serving/generation.h"

namespace heddle::serving {

struct ChatPrompt {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<int64_t>
      checkpoints;  // ends of the system prompt and of the last messages, as token counts
};

struct ChatOptions {
  bool add_generation_prompt = true;
  text::Value template_arguments;  // a map of extra template variables, or undefined
};

// messages: a list of maps; tools: a list or undefined. Errors are the template's own
// (raise_exception included).
Result<ChatPrompt> render_chat(const ModelHandle& model, const text::Value& messages,
                               const text::Value& tools, const ChatOptions& options);

}  // namespace heddle::serving
