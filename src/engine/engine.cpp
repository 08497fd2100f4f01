#include "engine/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/out_of_memory.h"

namespace heddle::engine {
namespace {

constexpr int64_t kScoreRows =
    64;  // rows of one step when every row needs logits: bounds memory at large vocabularies

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

void Engine::cancel(RequestId id) {
  for (auto& sequence : waiting_)
    if (sequence->id == id) sequence->cancelled = true;
  for (auto& sequence : running_)
    if (sequence->id == id) sequence->cancelled = true;
}

std::vector<Event> Engine::step() {
  end_cancelled(events_);
  // Those whose reader has gone.
  for (auto& sequence : running_)
    if (!sequence->state && sequence->reader == nullptr)
      within_memory_of(*sequence, [&] { place(*sequence); });
  admit();
  const std::vector<PlannedChunk> chunks = plan();
  if (!chunks.empty()) run(chunks, events_);
  remove_finished();
  return std::exchange(events_, {});
}

void Engine::give_up() {
  remove_finished();
  for (auto& sequence : running_) give_up(*sequence);
  cache_->clear();
  pool_.trim();
}

void Engine::give_up(Sequence& sequence) {
  sequence.given_up = true;
  sequence.state.reset();
  sequence.reader = nullptr;
  forget_reader(sequence);
}

// Without memory for it the sequence ends at the next step.
template <class F>
void Engine::within_memory_of(Sequence& sequence, F&& fn) {
  try {
    fn();
  } catch (const std::bad_alloc&) {
    give_up(sequence);
  }
}

void Engine::end_cancelled(std::vector<Event>& events) {
  for (auto& sequence : running_) {
    if (sequence->given_up) {
      fail(*sequence, "out of memory: what the request needs for its next step is not there",
           events);
    } else if (sequence->cancelled) {
      finish(*sequence, FinishReason::cancelled, "", events);
    }
  }
  remove_finished();
  for (auto& sequence : waiting_)
    if (sequence->cancelled) finish(*sequence, FinishReason::cancelled, "", events);
  std::erase_if(waiting_, [](const auto& sequence) { return sequence->finished; });
}

void Engine::admit() {
  while (!waiting_.empty()) {
    const int64_t bytes = waiting_.front()->reserved_bytes;
    if (static_cast<int64_t>(running_.size()) >= options_.scheduler.max_sequences ||
        reserved_bytes_ + bytes > options_.state_bytes)
      break;  // in order of arrival: nobody overtakes a large request for ever
    running_.reserve(running_.size() + 1);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    Sequence& sequence = *running_.back();
    within_memory_of(sequence, [&] { start(sequence); });
  }
}

void Engine::start(Sequence& sequence) {
  reserved_bytes_ += sequence.reserved_bytes;
  sequence.first_step = Clock::now();
  sequence.started = true;
  if (sequence.request.sampling.penalises())
    for (const int32_t token : sequence.tokens) sequence.seen.add_prompt(token);
  sequence.usage.queue_seconds = seconds_between(sequence.submitted, sequence.first_step);
  totals_.queue.observe(sequence.usage.queue_seconds);
  totals_.prompt_length.observe(static_cast<double>(sequence.prompt_tokens()));
  place(sequence);
}

// Begins the sequence where the cache allows, or lets it wait for one before it in running_ that
// reads more of its prompt.
void Engine::place(Sequence& sequence) {
  const Request& request = sequence.request;
  const bool cached = options_.prefix_cache && request.use_cache && !request.score_prompt;
  // The last prompt token always runs: its logits choose the first output token.
  const auto find = [&] {
    return cache_->match(request.isolation_key, sequence.prompt(), sequence.prompt_tokens() - 1);
  };
  state::PrefixCache::Match match;
  if (cached) match = find();
  std::vector<InFlight> before;
  int64_t known = match.known;
  for (const auto& running : running_) {
    if (running.get() == &sequence) break;
    before.push_back(seen_from(sequence, *running));
    if (before.back().common >= kWorthJoining) known = std::max(known, before.back().common);
  }
  const Join join =
      plan_join(before, sequence.prompt_tokens(), match.position, cached && positions_are_free_);
  if (join.sequence >= 0) {
    Sequence& reader = *running_[static_cast<size_t>(join.sequence)];
    if (join.position >= reader.position()) {
      sequence.reader = &reader;
      sequence.join_at = join.position;
      if (!reader.state) return;  // it will cut there when it begins
      if (join.position == reader.position()) {
        fork_followers(reader);
      } else {
        const auto at = std::lower_bound(reader.cuts.begin(), reader.cuts.end(), join.position);
        if (join.position < static_cast<int64_t>(reader.tokens.size()) &&
            (at == reader.cuts.end() || *at != join.position))
          reader.cuts.insert(at, join.position);
      }
      return;
    }
    store(reader);  // any position in what it has read can be resumed
    match = find();
  }
  if (cached) cache_->touch(match, sequence.prompt_tokens());
  begin(sequence, std::move(match.snapshot), known);
  fork_followers(sequence);
}

// `known`: how far the prompt is in the cache or with another sequence, at any position.
void Engine::begin(Sequence& sequence, state::Snapshot snapshot, int64_t known) {
  const int64_t position = snapshot.position;
  sequence.reader = nullptr;
  sequence.state = position > 0 ? std::make_unique<state::SequenceState>(executor_.layout(), pool_,
                                                                         std::move(snapshot))
                                : std::make_unique<state::SequenceState>(executor_.layout(), pool_);
  limit_cache();
  sequence.cuts = cuts_of(sequence, known);
  sequence.usage.cached_tokens = position;
  totals_.prompt_tokens += sequence.prompt_tokens();
  totals_.cached_tokens += position;
  if (options_.prefix_cache && sequence.request.use_cache && !sequence.request.score_prompt)
    totals_.cache_queried_tokens += sequence.prompt_tokens();
  totals_.computed_prompt_length.observe(static_cast<double>(sequence.prompt_tokens() - position));
}

// Choices of one request share anyway, if they have been told the same scores; others as they share
// the cache. Who scores a prompt reads it all, and slowly.
bool Engine::may_share(const Sequence& a, const Sequence& b) const {
  if (a.first_choice == b.first_choice) return a.scored == b.scored;
  if (a.request.score_prompt || b.request.score_prompt) return false;
  return options_.prefix_cache && a.request.use_cache && b.request.use_cache &&
         a.request.isolation_key == b.request.isolation_key;
}

InFlight Engine::seen_from(const Sequence& sequence, const Sequence& running) const {
  InFlight view;
  if (running.finished || !may_share(sequence, running)) return view;
  const auto prompt = sequence.prompt();
  const auto parting =
      std::mismatch(prompt.begin(), prompt.end(), running.tokens.begin(), running.tokens.end());
  view.common = parting.first - prompt.begin();
  view.position = running.position();
  view.same = view.common == running.prompt_tokens() && view.common == sequence.prompt_tokens() &&
              view.position < view.common;
  return view;
}

std::vector<Engine::Sequence*> Engine::followers(const Sequence& reader) const {
  std::vector<Sequence*> result;
  for (const auto& sequence : running_)
    if (sequence->reader == &reader) result.push_back(sequence.get());
  return result;
}

// Those that wait for the reader's position begin there; returns them. Who waits for one that it
// has skipped looks for another place at the next step.
std::vector<Engine::Sequence*> Engine::fork_followers(Sequence& reader) {
  std::vector<Sequence*> begun;
  const int64_t position = reader.state->position();
  for (Sequence* follower : followers(reader)) {
    if (follower->join_at > position) continue;
    if (follower->join_at < position) {
      follower->reader = nullptr;
      continue;
    }
    begin(*follower, reader.state->snapshot(), position);
    begun.push_back(follower);
    for (Sequence* next : fork_followers(*follower)) begun.push_back(next);
  }
  return begun;
}

// Where chunks end while the prompt is read, and resume points are stored: at the template's
// boundaries, where this prompt leaves a known one (the next to leave there resumes exactly), and
// before the last token (the same prompt again). A model whose every part is per_token resumes
// anywhere and needs none of them. And where others wait for its state.
std::vector<int64_t> Engine::cuts_of(const Sequence& sequence, int64_t known) const {
  std::vector<int64_t> cuts;
  if (options_.prefix_cache && sequence.request.use_cache && !positions_are_free_) {
    cuts = sequence.request.checkpoints;
    cuts.push_back(known);
    cuts.push_back(sequence.prompt_tokens() - 1);
  }
  for (const Sequence* follower : followers(sequence)) cuts.push_back(follower->join_at);
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
    if (!sequence->cuts.empty()) item.next_cut = sequence->cuts.front() - sequence->position();
    if (sequence->request.score_prompt) item.row_limit = kScoreRows;
    progress.push_back(item);
  }
  return plan_step(progress, options_.scheduler);
}

void Engine::run(std::span<const PlannedChunk> chunks, std::vector<Event>& events) {
  batch_.clear();
  requests_.clear();
  std::vector<PlannedChunk> added;
  std::vector<int64_t> first_request;
  const auto outputs = within_memory("a step", [&]() -> Result<std::span<RowOutput>> {
    added.reserve(chunks.size());
    first_request.reserve(chunks.size() + 1);
    for (const PlannedChunk& chunk : chunks) {
      Sequence& sequence = *running_[static_cast<size_t>(chunk.sequence)];
      const size_t before = requests_.size();
      const Status begun = within_memory("a step", [&]() -> Status {
        add_chunk(sequence, chunk.tokens);
        return {};
      });
      if (!begun) {  // the others go on without it
        requests_.resize(before);
        fail(sequence, begun.error().message, events);
        continue;
      }
      added.push_back(chunk);
      first_request.push_back(static_cast<int64_t>(before));
    }
    first_request.push_back(std::ssize(requests_));
    if (added.empty()) return std::span<RowOutput>();
    return executor_.step(batch_, requests_);
  });
  if (!outputs) {
    for (const PlannedChunk& chunk : chunks) {
      Sequence& sequence = *running_[static_cast<size_t>(chunk.sequence)];
      if (!sequence.finished) fail(sequence, outputs.error().message, events);
    }
    return;
  }
  if (added.empty()) return;
  const int64_t rows = std::ssize(batch_.tokens());
  ++totals_.steps;
  totals_.step_rows += rows;
  totals_.rows_per_step.observe(static_cast<double>(rows));
  for (size_t i = 0; i < added.size(); ++i) {
    const auto first = static_cast<size_t>(first_request[i]);
    const auto count = static_cast<size_t>(first_request[i + 1]) - first;
    after_chunk(*running_[static_cast<size_t>(added[i].sequence)], added[i].tokens,
                outputs->subspan(first, count), events);
  }
}

// Wants the score of every token of the prompt, if that is asked for, and behind the last token
// that is known the next of the answer: for the sequence, and for those that begin there.
void Engine::add_chunk(Sequence& sequence, int64_t rows) {
  const int64_t start = sequence.state->position();
  const int64_t first_row = std::ssize(batch_.rows());
  int64_t wanted = 0;
  if (sequence.scores_prompt())
    for (int64_t next = start + 1; next <= start + rows && next < sequence.prompt_tokens(); ++next)
      add_request(sequence, first_row + wanted++, next);
  if (rows == sequence.pending()) {
    std::vector<Sequence*> choosing = {&sequence};
    if (sequence.ends_prompt(rows))
      for (Sequence* follower : followers(sequence))
        if (follower->join_at == sequence.prompt_tokens()) choosing.push_back(follower);
    std::erase_if(choosing, [](const Sequence* s) { return s->request.max_tokens == 0; });
    for (const Sequence* s : choosing) add_request(*s, first_row + wanted, std::ssize(s->tokens));
    wanted += choosing.empty() ? 0 : 1;
  }
  const auto tokens = std::span<const int32_t>(sequence.tokens)
                          .subspan(static_cast<size_t>(start), static_cast<size_t>(rows));
  const int64_t first = sequence.scores_prompt() ? 0 : rows - wanted;
  batch_.add(*sequence.state, tokens, {first, wanted});
}

// The token at position `next`, behind a row: a score of a known one, else a choice.
void Engine::add_request(const Sequence& sequence, int64_t row, int64_t next) {
  RowRequest request;
  request.row = row;
  request.sampling = &sequence.request.sampling;
  request.seen = &sequence.seen;
  if (next < std::ssize(sequence.tokens)) {
    request.given = sequence.tokens[static_cast<size_t>(next)];
  } else {
    request.logits = sequence.request.keep_logits;
  }
  requests_.push_back(request);
}

void Engine::after_chunk(Sequence& sequence, int64_t rows, std::span<RowOutput> outputs,
                         std::vector<Event>& events) {
  const int64_t position = sequence.state->position();
  if (!sequence.decoding()) totals_.computed_prompt_tokens += rows;
  if (!sequence.cuts.empty() && sequence.cuts.front() == position) {
    store(sequence);
    sequence.cuts.erase(sequence.cuts.begin());
  }
  if (sequence.scores_prompt()) {
    for (int64_t next = position - rows + 1; next <= position; ++next) {
      if (next == sequence.prompt_tokens()) break;
      if (!outputs.front().sample)
        return finish(sequence, FinishReason::error, outputs.front().sample.error().message,
                      events);
      take_score(sequence, next, *outputs.front().sample, events);
      for (Sequence* follower : followers(sequence))
        take_score(*follower, next, *outputs.front().sample, events);
      outputs = outputs.subspan(1);
    }
  }
  std::vector<Sequence*> ready = fork_followers(sequence);
  ready.insert(ready.begin(), &sequence);
  for (Sequence* next : ready) {
    if (next->pending() > 0) continue;
    if (next->request.max_tokens == 0) {  // scoring only
      finish(*next, FinishReason::length, "", events);
      continue;
    }
    take_token(*next, outputs.front(), events);
    outputs = outputs.subspan(1);
  }
}

// Nobody is told a score twice, who reads for others that were told by one that has gone.
void Engine::take_score(Sequence& sequence, int64_t position, const Sample& score,
                        std::vector<Event>& events) {
  if (position <= sequence.scored) return;
  Event event;
  event.kind = Event::Kind::prompt_score;
  event.request = sequence.id;
  event.position = position;
  event.sample = score;
  events.push_back(std::move(event));
  sequence.scored = position;
}

void Engine::take_token(Sequence& sequence, RowOutput& output, std::vector<Event>& events) {
  if (!output.sample) {
    finish(sequence, FinishReason::error, output.sample.error().message, events);
    return;
  }
  Event event;
  event.request = sequence.id;
  event.position = static_cast<int64_t>(sequence.tokens.size());
  event.logits = std::move(output.logits);
  event.sample = std::move(*output.sample);
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

// A cache that could not note what it was given is of no use; what it held is memory for others.
template <class F>
void Engine::change_cache(F&& fn) {
  try {
    fn();
    // What running sequences have reserved is not the cache's.
    cache_->shrink(options_.state_bytes - reserved_bytes_);
  } catch (const std::bad_alloc&) {
    cache_->clear();
  }
}

void Engine::store(Sequence& sequence) {
  if (!options_.prefix_cache || !sequence.request.use_cache) return;
  const int64_t position = sequence.state->position();
  change_cache([&] {
    cache_->insert(sequence.request.isolation_key,
                   std::span(sequence.tokens).first(static_cast<size_t>(position)),
                   sequence.state->snapshot());
  });
}

void Engine::limit_cache() {
  change_cache([] {});
}

// The event first: where there is no memory for it, nothing has happened yet.
void Engine::finish(Sequence& sequence, FinishReason reason, std::string error,
                    std::vector<Event>& events) {
  const auto now = Clock::now();
  if (sequence.started) {
    const bool answered = sequence.usage.output_tokens > 0;
    sequence.usage.prefill_seconds =
        seconds_between(sequence.first_step, answered ? sequence.first_token : now);
    sequence.usage.decode_seconds =
        answered ? seconds_between(sequence.first_token, sequence.last_token) : 0;
  }
  Event event;
  event.kind = Event::Kind::finished;
  event.request = sequence.id;
  event.reason = reason;
  event.error = std::move(error);
  event.usage = sequence.usage;
  events.push_back(std::move(event));
  sequence.finished = true;
  ++totals_.requests_finished[static_cast<size_t>(reason)];
  forget_reader(sequence);
  if (sequence.started) {
    totals_.end_to_end.observe(seconds_between(sequence.submitted, now));
    totals_.decode.observe(sequence.usage.decode_seconds);
    totals_.output_length.observe(static_cast<double>(sequence.usage.output_tokens));
    // What an error left behind is nobody's to resume from.
    if (reason != FinishReason::error && sequence.state && sequence.state->position() > 0)
      store(sequence);
    reserved_bytes_ -= sequence.reserved_bytes;
  }
  sequence.state.reset();
}

// Who waits for what it reads looks for another place at the next step.
void Engine::forget_reader(const Sequence& reader) {
  for (auto& sequence : running_)
    if (sequence->reader == &reader) sequence->reader = nullptr;
}

// What the step has left of the sequence's state is no state of anything.
void Engine::fail(Sequence& sequence, std::string error, std::vector<Event>& events) {
  sequence.state.reset();
  finish(sequence, FinishReason::error, std::move(error), events);
  events.back().temporary = true;
}

void Engine::remove_finished() {
  std::erase_if(running_, [](const auto& sequence) { return sequence->finished; });
}

Engine::SavedSequence Engine::longest_prefix(const std::string& isolation_key,
                                             std::span<const int32_t> tokens) const {
  const auto match = cache_->match(isolation_key, tokens, static_cast<int64_t>(tokens.size()));
  return {match.snapshot, {tokens.begin(), tokens.begin() + match.position}};
}

void Engine::restore(const std::string& isolation_key, const SavedSequence& saved) {
  change_cache([&] { cache_->insert(isolation_key, saved.tokens, saved.snapshot); });
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
