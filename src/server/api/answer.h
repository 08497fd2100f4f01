#pragma once
// One answer under way: its generations run side by side in the engine and are sent as they come
// (server-sent events) or whole. Ends them when the client leaves or the time is up.
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "server/api/api.h"
#include "server/http/connection.h"
#include "serving/generation.h"

namespace heddle::server {

struct AnswerOptions {
  AnswerHeader header;
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
  bool with_logprobs = false;
  std::chrono::milliseconds timeout{600'000};
};

class Answer {
 public:
  // The model outlives it.
  Answer(const serving::ModelHandle& model, AnswerOptions options)
      : model_(model), options_(std::move(options)) {}

  // Starts the choices of the next prompt. `echo`: text that goes before each, with the scores of
  // its tokens if they are wanted.
  engine::Admission<void> add(serving::GenerationRequest request, const std::string& echo = {});

  // Sends everything; returns how it ended: the first choice's finish reason, or what went wrong.
  std::string run(HttpExchange& exchange);
  const UsageTotals& usage() const { return usage_; }
  int64_t choices() const { return static_cast<int64_t>(parts_.size()); }

 private:
  struct Part {
    std::unique_ptr<serving::Generation> generation;
    Choice choice;
    std::string echo;
    bool score_prompt = false;
    bool first_of_prompt = true;
    bool sent = false;  // its first piece
    bool finished = false;
    int64_t characters = 0;
  };

  // Takes what the engine has ready. False: nothing was.
  bool collect();
  void take(Part& part, serving::TextDelta delta);
  void put_piece(Part& part, serving::TextDelta delta);
  void put_event(const std::string& body);
  void end_early();
  ApiError failure_error() const;
  void finish(HttpExchange& exchange);

  const serving::ModelHandle& model_;
  AnswerOptions options_;
  std::shared_ptr<engine::Mailbox> mailbox_ = std::make_shared<engine::Mailbox>();
  std::vector<Part> parts_;
  UsageTotals usage_;
  std::string events_;   // ready to be sent
  std::string failure_;  // why the answer ends early: timeout, shutting_down, overloaded, error
  std::string error_;    // the engine's words for it
  size_t open_ = 0;
};

}  // namespace heddle::server
