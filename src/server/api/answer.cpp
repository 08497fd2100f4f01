#include "server/api/answer.h"

namespace heddle::server {
namespace {

constexpr std::chrono::milliseconds kLook{1000};  // deadlines are looked at this often
// A silent stream says so this often, or proxies on the way take it for dead.
constexpr std::chrono::seconds kKeepAlive{15};

}  // namespace

engine::Admission<void> Answer::add(serving::GenerationRequest request, const std::string& echo) {
  const bool score_prompt = request.engine.score_prompt;
  auto generations = serving::Generation::start(model_, std::move(request), mailbox_);
  if (!generations) return tl::unexpected(std::move(generations).error());
  for (auto& generation : *generations) {
    Part part;
    part.generation = std::move(generation);
    part.first_of_prompt = &generation == &generations->front();
    part.echo = echo;
    part.score_prompt = score_prompt;
    part.choice.index = choices();
    part.choice.with_logprobs = options_.with_logprobs;
    parts_.push_back(std::move(part));
    ++open_;
  }
  return {};
}

void Answer::put_event(const std::string& body) {
  events_ += "data: ";
  events_ += body;
  events_ += "\n\n";
}

// The prompt's text and scores go before the first piece; they are complete when it comes.
void Answer::put_piece(Part& part, serving::TextDelta delta) {
  if (!part.sent && !part.echo.empty()) {
    delta.text.insert(0, part.echo);
    const auto& scores = part.generation->prompt_scores();
    delta.tokens.insert(delta.tokens.begin(), scores.begin(), scores.end());
  }
  if (part.sent && !delta.finished && delta.text.empty() && delta.tokens.empty()) return;
  ChunkPlace place;
  place.index = part.choice.index;
  place.first = !part.sent;
  place.with_logprobs = options_.with_logprobs;
  place.text_offset = part.characters;
  part.sent = true;
  part.characters += count_characters(delta.text);
  put_event(options_.chat ? chat_chunk_body(options_.header, delta, place)
                          : completion_chunk_body(options_.header, delta, place));
}

void Answer::take(Part& part, serving::TextDelta delta) {
  if (delta.finished) {
    part.finished = true;
    --open_;
    usage_.add(delta.usage, part.first_of_prompt);
    part.choice.finish_reason = engine::finish_reason_name(delta.reason);
    if (delta.reason == engine::FinishReason::error) {
      failure_ = delta.temporary ? "overloaded" : "error";
      error_ = delta.error;
    } else if (delta.reason == engine::FinishReason::cancelled && failure_.empty()) {
      failure_ = "shutting_down";  // nobody else cancels
    }
    if (!failure_.empty()) return;
  }
  if (options_.stream) return put_piece(part, std::move(delta));
  part.choice.text += delta.text;
  auto& tokens = part.choice.tokens;
  tokens.insert(tokens.end(), delta.tokens.begin(), delta.tokens.end());
}

bool Answer::collect() {
  bool any = false;
  for (Part& part : parts_) {
    while (!part.finished) {
      auto delta = part.generation->next(std::chrono::milliseconds(0));
      if (!delta) break;
      any = true;
      take(part, std::move(*delta));
    }
  }
  return any;
}

// Cancelled requests still finish: their usage is part of the record.
void Answer::end_early() {
  for (Part& part : parts_)
    if (!part.finished) part.generation->cancel();
  uint64_t seen = 0;
  const auto end = Clock::now() + std::chrono::seconds(10);
  while (open_ > 0 && Clock::now() < end) {
    seen = mailbox_->wait(seen, std::chrono::milliseconds(0));
    if (!collect()) mailbox_->wait(seen, std::chrono::milliseconds(100));
  }
}

ApiError Answer::failure_error() const {
  ApiError error;
  error.type = "server_error";
  error.status = 500;
  error.code = failure_;
  if (failure_ == "timeout") {
    error.status = 408;
    error.type = "timeout_error";
    error.message =
        fmt::format("the answer took longer than {} s", options_.timeout.count() / 1000);
  } else if (failure_ == "shutting_down") {
    error.status = 503;
    error.type = "overloaded_error";
    error.message = "the server is shutting down";
    error.retry_after = 5;
  } else if (failure_ == "overloaded") {
    error.status = 503;
    error.type = "overloaded_error";
    error.message = error_;
    error.retry_after = 1;
  } else {
    error.message = error_;
  }
  return error;
}

void Answer::finish(HttpExchange& exchange) {
  if (options_.stream) {
    if (!failure_.empty()) {
      put_event(error_body(failure_error()));
    } else if (options_.include_usage) {
      put_event(usage_chunk_body(options_.header, options_.chat, usage_));
    }
    put_event("[DONE]");
    exchange.write(events_);
    exchange.finish();
    return;
  }
  HttpResponse response;
  if (!failure_.empty()) {
    const ApiError error = failure_error();
    response.status = error.status;
    response.body = error_body(error);
    if (error.retry_after > 0)
      response.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  } else {
    std::vector<Choice> choices;
    for (Part& part : parts_) {
      Choice& choice = part.choice;
      choice.text.insert(0, part.echo);
      if (part.score_prompt) {
        const auto& scores = part.generation->prompt_scores();
        choice.tokens.insert(choice.tokens.begin(), scores.begin(), scores.end());
      }
      choices.push_back(std::move(choice));
    }
    response.body = options_.chat ? chat_body(options_.header, choices, usage_)
                                  : completion_body(options_.header, choices, usage_);
  }
  exchange.respond(response);
}

std::string Answer::run(HttpExchange& exchange) {
  const auto deadline = Clock::now() + options_.timeout;
  exchange.on_gone([mailbox = mailbox_] { mailbox->notify(); });
  if (options_.stream) exchange.begin("text/event-stream");
  auto last_write = Clock::now();
  uint64_t seen = 0;
  while (open_ > 0 && failure_.empty()) {
    // First what has been seen, then whether the client is there: news in between wakes the wait
    // below.
    seen = mailbox_->wait(seen, std::chrono::milliseconds(0));
    if (exchange.gone()) break;
    const bool any = collect();
    if (Clock::now() >= deadline && open_ > 0) failure_ = "timeout";
    if (open_ == 0 || !failure_.empty()) break;  // goes out with the end
    if (events_.empty() && options_.stream && Clock::now() - last_write > kKeepAlive)
      events_ = ": still at work\n\n";
    if (!events_.empty()) {
      exchange.write(events_);
      events_.clear();
      last_write = Clock::now();
    } else if (!any) {
      mailbox_->wait(seen, kLook);
    }
  }
  const bool left = exchange.gone();
  if (open_ > 0) {
    if (left && failure_.empty()) failure_ = exchange.stalled() ? "slow_reader" : "disconnected";
    end_early();
  }
  exchange.on_gone(nullptr);
  const std::string reason = parts_[0].choice.finish_reason;  // finish() takes the choices
  if (!left) finish(exchange);
  if (exchange.stalled()) return "slow_reader";
  if (left) return "disconnected";
  return failure_.empty() ? reason : failure_;
}

}  // namespace heddle::server
