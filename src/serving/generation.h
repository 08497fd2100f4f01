#pragma once
// A request as text: tokens from the engine become text deltas, stop strings are honoured, UTF-8 is
// never broken. Used alike by the HTTP endpoints and by the terminal.
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/service.h"
#include "state/snapshot_file.h"
#include "text/template/chat_template.h"
#include "text/template/value.h"
#include "text/tokenizer/tokenizer.h"

namespace heddle::serving {

// What every front-end needs of a loaded model. Everything outlives the front-ends.
struct ModelHandle {
  std::string name;
  const text::Tokenizer& tokenizer;
  const text::ChatTemplate* chat_template;  // nullptr: the model has none
  engine::EngineService& service;
  int64_t context_length = 0;
  state::SnapshotIdentity identity;  // of saved conversations
};

struct GenerationRequest {
  engine::Request engine;          // stop_tokens are added from the tokenizer
  std::vector<std::string> stops;  // text at which to end; not part of the answer
  bool ignore_end = false;         // go on past end-of-generation tokens
  bool keep_special = false;       // special tokens appear in the text
};

// One token with its log probability, as text. Bytes may be a part of a character.
struct ScoredToken {
  int32_t token = 0;
  std::string bytes;
  float logprob = 0;
  bool scored = true;  // false: the first token of a prompt, which nothing predicts
  struct Alternative {
    int32_t token;
    std::string bytes;
    float logprob;
  };
  std::vector<Alternative> top;
};

struct TextDelta {
  std::string text;  // may be empty
  std::vector<ScoredToken>
      tokens;               // tokens since the last delta, when log probabilities were asked for
  int64_t token_count = 0;  // output tokens since the last delta
  bool finished = false;
  engine::FinishReason reason = engine::FinishReason::stop;
  std::string error;       // with reason error
  bool temporary = false;  // with reason error: the same request may succeed later
  engine::Usage usage;     // when finished
};

// Holds back text that may be the beginning of a stop string.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // Adds text; returns what can be shown. After stopped() nothing more is shown.
  std::string push(std::string_view text);
  std::string flush();  // what was held back, at the end
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

class Generation {
 public:
  // One for each choice of the request. The model outlives them. Events of several generations may
  // wake one mailbox.
  static engine::Admission<std::vector<std::unique_ptr<Generation>>> start(
      const ModelHandle& model, GenerationRequest request,
      std::shared_ptr<engine::Mailbox> mailbox = nullptr);

  // The next piece, waiting up to `timeout` (nullopt: nothing yet). The last one is `finished`.
  std::optional<TextDelta> next(std::chrono::milliseconds timeout);
  void cancel() { stream_->cancel(); }
  // With score_prompt: the prompt's tokens, complete once the first delta has arrived.
  const std::vector<ScoredToken>& prompt_scores() const { return prompt_scores_; }

 private:
  Generation(const ModelHandle& model, const GenerationRequest& request);
  ScoredToken scored(const engine::Sample& sample) const;
  TextDelta take(const engine::Event& event);

  const ModelHandle& model_;
  std::vector<int32_t> stop_tokens_;
  bool with_logprobs_;
  std::unique_ptr<engine::RequestStream> stream_;
  text::StreamDecoder decoder_;
  StopMatcher stops_;
  std::vector<ScoredToken> prompt_scores_;
};

}  // namespace heddle::serving
