#pragma once
// A conversation with a model: what was said, how answers are chosen, and its exact state as a
// file. The same settings, messages and seed give the same answers, whether the conversation was
// interrupted, saved and loaded in between or not.
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "serving/conversation_file.h"
#include "serving/generation.h"

namespace heddle::serving {

struct Reply {
  std::string text;
  engine::FinishReason reason = engine::FinishReason::stop;
  engine::Usage usage;
  std::vector<ScoredToken> tokens;  // when the settings ask for log probabilities
};

class Conversation {
 public:
  // Called with each new piece of an answer, and about every 50 ms with an empty one while nothing
  // comes. False stops the answer.
  using Sink = std::function<bool(std::string_view piece)>;

  // The model must outlive it, and have a chat template.
  Conversation(const ModelHandle& model, ConversationSettings settings);

  // Says `text`, and remembers it with the answer; of a stopped answer, what had been said. Nothing
  // is remembered on an error, or where the answer was stopped before its first word.
  Result<Reply> say(std::string text, const Sink& sink);
  // The last message again, with another seed. The old answer stays on an error.
  Result<Reply> retry(const Sink& sink);
  // Forgets the last message and its answer; false when there is none.
  bool undo();
  void reset();                       // forgets all messages
  void set_system(std::string text);  // begins anew

  const std::vector<Message>& messages() const { return messages_; }
  const ConversationSettings& settings() const { return settings_; }
  // What the next message will be read after, as the model reads it.
  Result<std::vector<int32_t>> tokens() const;

  // Both give the number of tokens whose state the file holds: the next answer does not read them
  // again. An existing file is replaced only if it is a conversation.
  Result<int64_t> save(const std::string& path) const;
  // Takes over messages and settings. Refuses, and changes nothing, what is damaged, of another
  // model or not the state of its own messages.
  Result<int64_t> load(const std::string& path);

 private:
  Result<Reply> answer(const Sink& sink);

  const ModelHandle& model_;
  ConversationSettings settings_;
  std::vector<Message> messages_;
  int64_t retries_ = 0;
};

}  // namespace heddle::serving
