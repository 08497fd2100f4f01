#include "engine/engine.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace heddle::engine {
namespace {

constexpr int64_t kScoreRows =
    64;  // rows of one step when every row needs logits: bounds memory at large vocabularies

tl::unexpected<Refusal> refuse(Refusal::Kind kind, std::string parameter, std::string message) {
  Refusal refusal;
  refusal.kind = kind;
  refusal.parameter = std::move(parameter);
  refusal.message = std::move(message);
  return tl::unexpected(std::move(refusal));
}

double seconds_between(std::chrono::steady_clock::time_point from,
                       std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::error:
      return "error";
  }
  return "error";
}

Engine::Engine(Executor& executor, const EngineOptions& options)
    : executor_(executor), options_(options), batch_(executor.layout()) {
  state::PrefixCache::Options cache_options;
  cache_options.max_bytes = options.state_bytes;
  cache_ = std::make_unique<state::PrefixCache>(executor.layout(), cache_options);
  positions_are_free_ =
      std::all_of(executor.layout().groups.begin(), executor.layout().groups.end(),
                  [](const auto& group) { return group.growth == state::Growth::per_token; });
}

Engine::~Engine() = default;

BytesByGrowth sequence_bytes(const state::StateLayout& layout, int64_t tokens,
                             int64_t step_tokens) {
  BytesByGrowth bytes{};
  for (const state::PageGroup& group : layout.groups) {
    int64_t& total = bytes[static_cast<size_t>(group.growth)];
    const int64_t pages = group.pages_for(tokens);
    switch (group.growth) {
      case state::Growth::per_token:
        total += pages * group.page_bytes;
        break;
      case state::Growth::window: {
        // The window, the chunk being written, and the page at either end.
        int64_t live = (group.window + group.sinks) / group.page_records + 2;
        if (group.stores_whole_chunk()) live += step_tokens / group.page_records + 1;
        total += std::min(pages + 1, live) * group.page_bytes;
        break;
      }
      case state::Growth::folded:
        total += 2 * group.summary_bytes + group.page_bytes;
        break;
    }
  }
  return bytes;
}

int64_t Engine::sequence_bytes(int64_t tokens) const {
  const BytesByGrowth bytes =
      engine::sequence_bytes(executor_.layout(), tokens, options_.scheduler.step_tokens);
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

Admission<RequestId> Engine::submit(Request request) {
  using Kind = Refusal::Kind;
  const int64_t vocab = executor_.vocab_size();
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0)
    return refuse(Kind::invalid, "prompt", "the prompt is empty, at least one token is expected");
  for (const int32_t token : request.prompt)
    if (token < 0 || token >= vocab)
      return refuse(
          Kind::invalid, "prompt",
          fmt::format("token {} in the prompt: the vocabulary has {} tokens", token, vocab));
  if (auto status = validate(request.sampling, vocab); !status)
    return refuse(Kind::invalid, status.error().parameter, status.error().message);
  if (request.max_tokens < 0)
    return refuse(Kind::invalid, "max_tokens",
                  fmt::format("max_tokens is {}, 0 or more is expected", request.max_tokens));
  const int64_t context = executor_.context_length();
  if (prompt > context || (prompt == context && request.max_tokens > 0))
    return refuse(
        Kind::too_long, "prompt",
        fmt::format("the prompt has {} tokens, the context of the model is {}", prompt, context));
  request.max_tokens = std::min(request.max_tokens, context - prompt);
  auto sequence = std::make_unique<Sequence>();
  sequence->reserved_bytes = sequence_bytes(prompt + request.max_tokens);
  if (sequence->reserved_bytes > options_.state_bytes)
    return refuse(Kind::too_large, "max_tokens",
                  fmt::format("{} prompt and {} output tokens need {} MiB of state, {} MiB are "
                              "configured",
                              prompt, request.max_tokens, sequence->reserved_bytes >> 20,
                              options_.state_bytes >> 20));
  if (static_cast<int64_t>(waiting_.size()) >= options_.max_waiting) {
    ++totals_.requests_refused;
    return refuse(Kind::queue_full, "",
                  fmt::format("{} requests are waiting already, try again later", waiting_.size()));
  }
  sequence->id = next_id_++;
  sequence->tokens = request.prompt;
  sequence->usage.prompt_tokens = prompt;
  sequence->request = std::move(request);
  sequence->submitted = Clock::now();
  ++totals_.requests_submitted;
  waiting_.push_back(std::move(sequence));
  return waiting_.back()->id;
}

void Engine::cancel(RequestId id) {
  for (auto& sequence : waiting_)
    if (sequence->id == id) sequence->cancelled = true;
  for (auto& sequence : running_)
    if (sequence->id == id) sequence->cancelled = true;
}

std::vector<Event> Engine::step() {
  std::vector<Event> events;
  for (auto& sequence : running_)
    if (sequence->cancelled) finish(*sequence, FinishReason::cancelled, "", events);
  remove_finished();
  admit(events);
  const std::vector<PlannedChunk> chunks = plan();
  if (!chunks.empty()) run(chunks, events);
  remove_finished();
  return events;
}

void Engine::admit(std::vector<Event>& events) {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    Sequence& sequence = **it;
    if (sequence.cancelled) {
      finish(sequence, FinishReason::cancelled, "", events);
      it = waiting_.erase(it);
      continue;
    }
    if (static_cast<int64_t>(running_.size()) >= options_.scheduler.max_sequences ||
        reserved_bytes_ + sequence.reserved_bytes > options_.state_bytes)
      break;  // in order of arrival: nobody overtakes a large request for ever
    start(sequence);
    running_.push_back(std::move(*it));
    it = waiting_.erase(it);
  }
}

void Engine::start(Sequence& sequence) {
  reserved_bytes_ += sequence.reserved_bytes;
  const Request& request = sequence.request;
  const bool use_cache = options_.prefix_cache && request.use_cache && !request.score_prompt;
  int64_t shared_prefix = 0;
  if (use_cache) {
    // The last prompt token always runs: its logits choose the first output token.
    const auto match =
        cache_->match(request.isolation_key, request.prompt, sequence.prompt_tokens() - 1);
    cache_->touch(match, sequence.prompt_tokens());
    shared_prefix = match.known;
    totals_.cache_queried_tokens += sequence.prompt_tokens();
    if (match.position > 0) {
      sequence.state =
          std::make_unique<state::SequenceState>(executor_.layout(), pool_, match.snapshot);
      sequence.usage.cached_tokens = match.position;
    }
  }
  if (!sequence.state)
    sequence.state = std::make_unique<state::SequenceState>(executor_.layout(), pool_);
  limit_cache();
  sequence.cuts = cuts_of(sequence, shared_prefix);
  if (request.sampling.penalises())
    for (const int32_t token : request.prompt) sequence.seen.add_prompt(token);
  sequence.first_step = Clock::now();
  sequence.started = true;
  sequence.usage.queue_seconds = seconds_between(sequence.submitted, sequence.first_step);
  totals_.prompt_tokens += sequence.usage.prompt_tokens;
  totals_.cached_tokens += sequence.usage.cached_tokens;
  totals_.queue.observe(sequence.usage.queue_seconds);
  totals_.prompt_length.observe(static_cast<double>(sequence.usage.prompt_tokens));
  totals_.computed_prompt_length.observe(
      static_cast<double>(sequence.usage.prompt_tokens - sequence.usage.cached_tokens));
}

// Where resume points are stored while the prompt is read: at the template's boundaries, where this
// prompt leaves a cached one (the next to leave there resumes exactly), and before the last token
// (the same prompt again). A model whose every part is per_token resumes anywhere and needs none of
// them.
std::vector<int64_t> Engine::cuts_of(const Sequence& sequence, int64_t shared_prefix) const {
  std::vector<int64_t> cuts;
  if (!options_.prefix_cache || !sequence.request.use_cache || positions_are_free_) return cuts;
  cuts = sequence.request.checkpoints;
  cuts.push_back(shared_prefix);
  cuts.push_back(sequence.prompt_tokens() - 1);
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::erase_if(cuts, [&](int64_t cut) {
    return cut <= sequence.state->position() || cut >= sequence.prompt_tokens();
  });
  return cuts;
}

std::vector<PlannedChunk> Engine::plan() const {
  std::vector<SequenceProgress> progress;
  for (const auto& sequence : running_) {
    SequenceProgress item;
    item.pending = sequence->pending();
    item.decoding = sequence->decoding();
    if (!sequence->cuts.empty())
      item.next_cut = sequence->cuts.front() - sequence->state->position();
    if (sequence->request.score_prompt) item.row_limit = kScoreRows;
    progress.push_back(item);
  }
  return plan_step(progress, options_.scheduler);
}

// Rows of this chunk whose logits are needed: all when scoring, else the last one if it ends what
// is known.
int64_t Engine::logit_rows(const Sequence& sequence, int64_t rows) const {
  if (sequence.request.score_prompt && !sequence.decoding()) return rows;
  return rows == sequence.pending() ? 1 : 0;
}

void Engine::run(std::span<const PlannedChunk> chunks, std::vector<Event>& events) {
  batch_.clear();
  for (const PlannedChunk& chunk : chunks) {
    Sequence& sequence = *running_[static_cast<size_t>(chunk.sequence)];
    const auto tokens = std::span<const int32_t>(sequence.tokens)
                            .subspan(static_cast<size_t>(sequence.state->position()),
                                     static_cast<size_t>(chunk.tokens));
    const int64_t wanted = logit_rows(sequence, chunk.tokens);
    batch_.add(*sequence.state, tokens, {chunk.tokens - wanted, wanted});
  }
  const int64_t vocab = executor_.vocab_size();
  logits_.resize(batch_.rows().size() * static_cast<size_t>(vocab));
  executor_.forward(batch_, logits_.data());
  const int64_t rows = std::ssize(batch_.tokens());
  ++totals_.steps;
  totals_.step_rows += rows;
  totals_.rows_per_step.observe(static_cast<double>(rows));
  float* next = logits_.data();
  for (size_t i = 0; i < chunks.size(); ++i) {
    const PlannedChunk& chunk = chunks[i];
    Sequence& sequence = *running_[static_cast<size_t>(chunk.sequence)];
    const int64_t wanted = logit_rows(sequence, chunk.tokens);
    batch_.commit(static_cast<int64_t>(i));
    after_chunk(sequence, chunk.tokens, {next, static_cast<size_t>(wanted * vocab)}, events);
    next += wanted * vocab;
  }
}

void Engine::after_chunk(Sequence& sequence, int64_t rows, std::span<float> logits,
                         std::vector<Event>& events) {
  const int64_t position = sequence.state->position();
  if (!sequence.decoding()) totals_.computed_prompt_tokens += rows;
  if (!sequence.cuts.empty() && sequence.cuts.front() == position) {
    store(sequence);
    sequence.cuts.erase(sequence.cuts.begin());
  }
  const auto vocab = static_cast<size_t>(executor_.vocab_size());
  if (sequence.request.score_prompt && !sequence.decoding()) {
    if (const Status status = score_rows(sequence, position - rows, rows, logits, events);
        !status) {
      finish(sequence, FinishReason::error, status.error().message, events);
      return;
    }
  }
  if (sequence.pending() > 0) return;
  if (sequence.usage.output_tokens == sequence.request.max_tokens) {  // scoring only
    finish(sequence, FinishReason::length, "", events);
    return;
  }
  choose_token(sequence, logits.last(vocab), events);
}

Result<Sample> Engine::sample(const Sequence& sequence, std::span<float> logits, int32_t given) {
  ops::SampleRow row;
  row.logits = logits.data();
  row.params = &sequence.request.sampling;
  row.seen = sequence.seen.seen();
  row.position = static_cast<int64_t>(sequence.tokens.size());
  row.given = given;
  backend::Context context{sampling_threads_, scratch_};
  return std::move(ops::sample(context, {&row, 1}, executor_.vocab_size())[0]);
}

Status Engine::score_rows(Sequence& sequence, int64_t first, int64_t rows, std::span<float> logits,
                          std::vector<Event>& events) {
  const auto vocab = static_cast<size_t>(executor_.vocab_size());
  for (int64_t i = 0; i < rows && first + i + 1 < sequence.prompt_tokens(); ++i) {
    Event event;
    event.kind = Event::Kind::prompt_score;
    event.request = sequence.id;
    event.position = first + i + 1;
    HEDDLE_TRY(event.sample, sample(sequence, logits.subspan(static_cast<size_t>(i) * vocab, vocab),
                                    sequence.tokens[static_cast<size_t>(first + i + 1)]));
    events.push_back(std::move(event));
  }
  return {};
}

void Engine::choose_token(Sequence& sequence, std::span<float> logits, std::vector<Event>& events) {
  Event event;
  event.request = sequence.id;
  event.position = static_cast<int64_t>(sequence.tokens.size());
  if (sequence.request.keep_logits) event.logits.assign(logits.begin(), logits.end());
  Result<Sample> chosen = sample(sequence, logits, -1);
  if (!chosen) {
    finish(sequence, FinishReason::error, std::move(chosen.error().message), events);
    return;
  }
  event.sample = std::move(*chosen);
  const int32_t token = event.sample.token;
  const auto now = Clock::now();
  if (sequence.usage.output_tokens == 0) {
    sequence.first_token = now;
    totals_.time_to_first_token.observe(seconds_between(sequence.submitted, now));
    totals_.prefill.observe(seconds_between(sequence.first_step, now));
  } else {
    totals_.inter_token.observe(seconds_between(sequence.last_token, now));
  }
  sequence.last_token = now;
  sequence.tokens.push_back(token);
  if (sequence.request.sampling.penalises()) sequence.seen.add_output(token);
  ++sequence.usage.output_tokens;
  ++totals_.output_tokens;
  events.push_back(std::move(event));
  const auto& stops = sequence.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    finish(sequence, FinishReason::stop, "", events);
  } else if (sequence.usage.output_tokens >= sequence.request.max_tokens) {
    finish(sequence, FinishReason::length, "", events);
  }
}

void Engine::store(Sequence& sequence) {
  if (!options_.prefix_cache || !sequence.request.use_cache) return;
  const int64_t position = sequence.state->position();
  cache_->insert(sequence.request.isolation_key,
                 std::span(sequence.tokens).first(static_cast<size_t>(position)),
                 sequence.state->snapshot());
  limit_cache();
}

// What running sequences have reserved is not the cache's.
void Engine::limit_cache() { cache_->shrink(options_.state_bytes - reserved_bytes_); }

void Engine::finish(Sequence& sequence, FinishReason reason, std::string error,
                    std::vector<Event>& events) {
  if (sequence.started) {
    const auto now = Clock::now();
    const bool answered = sequence.usage.output_tokens > 0;
    sequence.usage.prefill_seconds =
        seconds_between(sequence.first_step, answered ? sequence.first_token : now);
    sequence.usage.decode_seconds =
        answered ? seconds_between(sequence.first_token, sequence.last_token) : 0;
    totals_.end_to_end.observe(seconds_between(sequence.submitted, now));
    totals_.decode.observe(sequence.usage.decode_seconds);
    totals_.output_length.observe(static_cast<double>(sequence.usage.output_tokens));
    // What an error left behind is nobody's to resume from.
    if (reason != FinishReason::error && sequence.state->position() > 0) store(sequence);
    reserved_bytes_ -= sequence.reserved_bytes;
    sequence.state.reset();
  }
  ++totals_.requests_finished[static_cast<size_t>(reason)];
  Event event;
  event.kind = Event::Kind::finished;
  event.request = sequence.id;
  event.reason = reason;
  event.error = std::move(error);
  event.usage = sequence.usage;
  events.push_back(std::move(event));
}

void Engine::remove_finished() {
  std::erase_if(running_, [](const auto& sequence) { return sequence->state == nullptr; });
}

Engine::SavedSequence Engine::longest_prefix(const std::string& isolation_key,
                                             std::span<const int32_t> tokens) const {
  const auto match = cache_->match(isolation_key, tokens, static_cast<int64_t>(tokens.size()));
  return {match.snapshot, {tokens.begin(), tokens.begin() + match.position}};
}

void Engine::restore(const std::string& isolation_key, const SavedSequence& saved) {
  cache_->insert(isolation_key, saved.tokens, saved.snapshot);
  limit_cache();
}

EngineMetrics Engine::metrics() const {
  EngineMetrics metrics = totals_;
  metrics.running = static_cast<int64_t>(running_.size());
  metrics.waiting = static_cast<int64_t>(waiting_.size());
  metrics.state_limit_bytes = options_.state_bytes;
  metrics.state_reserved_bytes = reserved_bytes_;
  for (size_t g = 0; g < state::kGrowthClasses; ++g)
    metrics.state_bytes_by_growth[g] = pool_.live_bytes(static_cast<state::Growth>(g));
  const state::PrefixCache::Stats cache = cache_->stats();
  metrics.cache_bytes = cache.bytes;
  metrics.cache_unreachable_bytes = cache.unreachable_bytes;
  metrics.cache_points = cache.points;
  metrics.cache_blocks = cache.nodes;
  metrics.cache_evicted_points = cache.evicted_points;
  metrics.cache_evicted_blocks = cache.evicted_nodes;
  return metrics;
}

void Engine::check_invariants() const {
  HEDDLE_CHECK(reserved_bytes_ >= 0 && reserved_bytes_ <= options_.state_bytes, "reserved {}",
               reserved_bytes_);
  if (!running_.empty()) return;
  HEDDLE_CHECK(reserved_bytes_ == 0, "{} bytes are reserved while nothing runs", reserved_bytes_);
  HEDDLE_CHECK(pool_.live_bytes() == cache_->bytes(), "{} bytes are held, {} are cached",
               pool_.live_bytes(), cache_->bytes());
}

}  // namespace heddle::engine
