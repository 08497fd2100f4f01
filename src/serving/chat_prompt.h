#pragma once
// A conversation as the model reads it: the template's text, its tokens, and the positions worth
// resuming from. One rendering and one encoding give all of it.
#include <cstdint>
#include <string>
#include <vector>

#include "serving/generation.h"

namespace heddle::serving {

struct ChatPrompt {
  std::string text;
  std::vector<int32_t> tokens;
  // [messages]: how many tokens there are up to the end of each message; -1 where no token ends
  // there, or the template does not write messages one after the other.
  std::vector<int64_t> ends;
  std::vector<int64_t> checkpoints;  // the ends of the system prompt and of the last messages
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
