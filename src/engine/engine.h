#pragma once
// The engine: requests in, events out. Owned by one thread (see service.h for the thread); no
// locks.
//
// One step() admits what fits, plans a ragged batch, runs it, and stores resume points. A sequence
// resumes from the longest cached prefix, or waits for what a running one reads of its prompt and
// takes over a fork of its state; every result is bit-equal to a cold run (design, section 1).
#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/context.h"
#include "engine/executor.h"
#include "engine/metrics.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "state/prefix_cache.h"
#include "state/sequence_state.h"

namespace heddle::engine {

struct EngineOptions {
  SchedulerOptions scheduler;
  int64_t state_bytes = int64_t{4} << 30;  // running sequences and cached prefixes together
  int64_t max_waiting = 256;               // submit() refuses beyond
  int64_t max_unread_events = 4096;        // of one answer; a reader this far behind is cancelled
  bool prefix_cache = true;
};

// What one sequence of `tokens` tokens needs at most, by growth class, in steps of up to
// step_tokens.
using BytesByGrowth = std::array<int64_t, state::kGrowthClasses>;
BytesByGrowth sequence_bytes(const state::StateLayout& layout, int64_t tokens, int64_t step_tokens);

class Engine {
 public:
  // The executor must outlive the engine.
  Engine(Executor& executor, const EngineOptions& options);
  ~Engine();

  // Refuses what can never run (bad tokens or parameters, a prompt that does not fit the context or
  // the memory) and what finds the queue full. Every choice has an id; they follow the one
  // returned.
  Admission<RequestId> submit(Request request);
  // Ends a request at the next step() with reason cancelled; unknown ids are ignored.
  void cancel(RequestId id);
  bool idle() const { return waiting_.empty() && running_.empty(); }
  // Runs one step and returns what happened, in order. Empty when idle. Throws std::bad_alloc where
  // there is no memory even for that; then give_up() is due.
  std::vector<Event> step();
  // Ends all that runs and frees its state and the cache; the next step() tells. Takes no memory.
  void give_up();

  EngineMetrics metrics() const;
  // Bytes that one sequence of `tokens` tokens needs.
  int64_t sequence_bytes(int64_t tokens) const;
  // The state after `tokens`, and the tokens: what a snapshot file holds.
  struct SavedSequence {
    state::Snapshot snapshot;
    std::vector<int32_t> tokens;  // [snapshot.position]
  };
  // The longest cached prefix of `tokens`, as it could be saved to a file.
  SavedSequence longest_prefix(const std::string& isolation_key,
                               std::span<const int32_t> tokens) const;
  // Makes a saved prefix available to later requests.
  void restore(const std::string& isolation_key, const SavedSequence& saved);
  // Free + held + cached = total, and nothing held when idle (a bug otherwise).
  void check_invariants() const;
  state::BlockPool& pool() { return pool_; }
  const state::StateLayout& layout() const { return executor_.layout(); }
  const EngineOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Sequence {
    RequestId id = 0;
    RequestId first_choice = 0;  // the id of choice 0 of its request
    Request request;             // its prompt is in `tokens`
    // Null before it has begun: while another reads its prompt, `reader`, to position join_at. Such
    // a reader is running, and before this one in running_.
    std::unique_ptr<state::SequenceState> state;
    Sequence* reader = nullptr;
    int64_t join_at = 0;
    std::vector<int32_t> tokens;  // prompt, then output
    std::vector<int64_t> cuts;    // positions at which a resume point is stored, ascending
    int64_t scored = 0;           // prompt positions up to here have been scored, with score_prompt
    TokenCounts seen;             // with penalties only
    Usage usage;
    int64_t reserved_bytes = 0;
    bool cancelled = false;
    bool given_up = false;  // there was no memory for its step; its state is gone
    bool started = false;
    bool finished = false;
    Clock::time_point submitted, first_step, first_token, last_token;

    int64_t prompt_tokens() const { return usage.prompt_tokens; }
    std::span<const int32_t> prompt() const {
      return std::span(tokens).first(static_cast<size_t>(prompt_tokens()));
    }
    // Where its state is, or will be when it begins.
    int64_t position() const { return state ? state->position() : join_at; }
    int64_t pending() const {
      return state ? static_cast<int64_t>(tokens.size()) - state->position() : 0;
    }
    // Whether the rows of a chunk end its prompt.
    bool ends_prompt(int64_t rows) const { return !decoding() && rows == pending(); }
    bool decoding() const { return usage.output_tokens > 0; }
    bool scores_prompt() const { return request.score_prompt && !decoding(); }
  };

  void enqueue(Request request, int64_t bytes);
  void end_cancelled(std::vector<Event>& events);
  void admit();
  void start(Sequence& sequence);
  void place(Sequence& sequence);
  void begin(Sequence& sequence, state::Snapshot snapshot, int64_t known);
  bool may_share(const Sequence& a, const Sequence& b) const;
  InFlight seen_from(const Sequence& sequence, const Sequence& running) const;
  std::vector<Sequence*> followers(const Sequence& reader) const;
  std::vector<Sequence*> fork_followers(Sequence& reader);
  std::vector<int64_t> cuts_of(const Sequence& sequence, int64_t known) const;
  std::vector<PlannedChunk> plan() const;
  void run(std::span<const PlannedChunk> chunks, std::vector<Event>& events);
  void add_chunk(Sequence& sequence, int64_t rows);
  void add_request(const Sequence& sequence, int64_t row, int64_t next);
  void after_chunk(Sequence& sequence, int64_t rows, std::span<RowOutput> outputs,
                   std::vector<Event>& events);
  void take_token(Sequence& sequence, RowOutput& output, std::vector<Event>& events);
  void take_score(Sequence& sequence, int64_t position, const Sample& score,
                  std::vector<Event>& events);
  void store(Sequence& sequence);
  void limit_cache();
  template <class F>
  void change_cache(F&& fn);
  template <class F>
  void within_memory_of(Sequence& sequence, F&& fn);
  void give_up(Sequence& sequence);
  void forget_reader(const Sequence& reader);
  void finish(Sequence& sequence, FinishReason reason, std::string error,
              std::vector<Event>& events);
  void fail(Sequence& sequence, std::string error, std::vector<Event>& events);
  void remove_finished();

  Executor& executor_;
  EngineOptions options_;
  state::BlockPool pool_;
  std::unique_ptr<state::PrefixCache> cache_;
  bool positions_are_free_;  // every part is per_token: any cached position can be resumed
  std::list<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  std::vector<Event> events_;  // not returned yet
  int64_t reserved_bytes_ = 0;
  RequestId next_id_ = 1;
  EngineMetrics totals_;
  state::StepBatch batch_;
  std::vector<RowRequest> requests_;
};

}  // namespace heddle::engine
