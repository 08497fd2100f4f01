#include "serving/generation.h"

#include <algorithm>

namespace heddle::serving {

std::string StopMatcher::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    return std::exchange(held_, {}).substr(0, first);
  }
  size_t keep = 0;  // longest end of the text that begins a stop string
  for (const std::string& stop : stops_)
    for (size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length)
      if (std::string_view(held_).substr(held_.size() - length) ==
          std::string_view(stop).substr(0, length)) {
        keep = length;
        break;
      }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::flush() { return stopped_ ? std::string() : std::exchange(held_, {}); }

Generation::Generation(const ModelHandle& model, const GenerationRequest& request)
    : model_(model),
      stop_tokens_(request.engine.stop_tokens),
      with_logprobs_(request.engine.sampling.logprobs >= 0),
      decoder_(model.tokenizer,
               text::DecodeOptions{.skip_special = !request.keep_special, .text_start = false}),
      stops_(request.stops) {
  if (!request.engine.score_prompt || request.engine.prompt.empty()) return;
  ScoredToken first;
  first.token = request.engine.prompt[0];
  first.bytes = std::string(model.tokenizer.token_bytes(first.token));
  first.scored = false;
  prompt_scores_.push_back(std::move(first));
}

engine::Admission<std::vector<std::unique_ptr<Generation>>> Generation::start(
    const ModelHandle& model, GenerationRequest request, std::shared_ptr<engine::Mailbox> mailbox) {
  std::erase(request.stops, "");  // would end every answer at once
  if (!request.ignore_end)
    for (const int32_t token : model.tokenizer.vocabulary().end_of_generation)
      request.engine.stop_tokens.push_back(token);
  std::vector<std::unique_ptr<Generation>> generations;
  for (int64_t choice = 0; choice < request.engine.choices; ++choice)
    generations.push_back(std::unique_ptr<Generation>(new Generation(model, request)));
  auto streams = model.service.submit(std::move(request.engine), std::move(mailbox));
  if (!streams) return tl::unexpected(std::move(streams).error());
  for (size_t i = 0; i < generations.size(); ++i)
    generations[i]->stream_ = std::move((*streams)[i]);
  return generations;
}

ScoredToken Generation::scored(const engine::Sample& sample) const {
  ScoredToken result;
  result.token = sample.token;
  result.bytes = std::string(model_.tokenizer.token_bytes(sample.token));
  result.logprob = sample.logprob;
  for (const engine::TokenLogprob& top : sample.top)
    result.top.push_back(
        {top.token, std::string(model_.tokenizer.token_bytes(top.token)), top.logprob});
  return result;
}

TextDelta Generation::take(const engine::Event& event) {
  TextDelta delta;
  if (event.kind == engine::Event::Kind::token) {
    const bool is_stop = std::find(stop_tokens_.begin(), stop_tokens_.end(), event.sample.token) !=
                         stop_tokens_.end();
    delta.token_count = 1;
    if (stops_.stopped()) return delta;
    // The token that ends the answer has no text, but a score: there are as many as output tokens.
    if (!is_stop) delta.text = stops_.push(decoder_.push(event.sample.token));
    if (with_logprobs_) delta.tokens.push_back(scored(event.sample));
    if (stops_.stopped()) stream_->cancel();
  } else if (event.kind == engine::Event::Kind::finished) {
    delta.finished = true;
    delta.usage = event.usage;
    delta.error = event.error;
    delta.temporary = event.temporary;
    delta.reason = stops_.stopped() ? engine::FinishReason::stop : event.reason;
    if (!stops_.stopped()) {
      delta.text = stops_.push(decoder_.flush());
      delta.text += stops_.flush();
      if (stops_.stopped()) delta.reason = engine::FinishReason::stop;
    }
  }
  return delta;
}

std::optional<TextDelta> Generation::next(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    const auto event = stream_->next(std::max(left, std::chrono::milliseconds(0)));
    if (!event) return std::nullopt;
    if (event->kind != engine::Event::Kind::prompt_score) return take(*event);
    prompt_scores_.push_back(scored(event->sample));
  }
}

}  // namespace heddle::serving
