#pragma once
// The engine: requests in, events out. Owned by one thread (see service.h for the thread); no
// locks.
//
// One step() admits what fits, plans a ragged batch, runs it, samples, and stores resume points. A
// sequence resumes from the longest cached prefix; every result is bit-equal to a cold run (design,
// section 1).
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
  // the memory) and what finds the queue full.
  Admission<RequestId> submit(Request request);
  // Ends a request at the next step() with reason cancelled; unknown ids are ignored.
  void cancel(RequestId id);
  bool idle() const { return waiting_.empty() && running_.empty(); }
  // Runs one step and returns what happened, in order. Empty when idle.
  std::vector<Event> step();

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
    Request request;
    std::unique_ptr<state::SequenceState> state;
    std::vector<int32_t> tokens;  // prompt, then output
    std::vector<int64_t> cuts;    // positions at which a resume point is stored, ascending
    TokenCounts seen;             // with penalties only
    Usage usage;
    int64_t reserved_bytes = 0;
    bool cancelled = false;
    bool started = false;
    Clock::time_point submitted, first_step, first_token, last_token;

    int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()); }
    int64_t pending() const { return static_cast<int64_t>(tokens.size()) - state->position(); }
    bool decoding() const { return usage.output_tokens > 0; }
  };

  void admit(std::vector<Event>& events);
  void start(Sequence& sequence);
  std::vector<int64_t> cuts_of(const Sequence& sequence, int64_t shared_prefix) const;
  std::vector<PlannedChunk> plan() const;
  void run(std::span<const PlannedChunk> chunks, std::vector<Event>& events);
  void after_chunk(Sequence& sequence, int64_t rows, std::span<float> logits,
                   std::vector<Event>& events);
  void choose_token(Sequence& sequence, std::span<float> logits, std::vector<Event>& events);
  Status score_rows(Sequence& sequence, int64_t first, int64_t rows, std::span<float> logits,
                    std::vector<Event>& events);
  Result<Sample> sample(const Sequence& sequence, std::span<float> logits, int32_t given);
  void store(Sequence& sequence);
  void limit_cache();
  void finish(Sequence& sequence, FinishReason reason, std::string error,
              std::vector<Event>& events);
  void remove_finished();
  int64_t logit_rows(const Sequence& sequence, int64_t rows) const;

  Executor& executor_;
  EngineOptions options_;
  state::BlockPool pool_;
  std::unique_ptr<state::PrefixCache> cache_;
  bool positions_are_free_;  // every part is per_token: any cached position can be resumed
  std::list<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  int64_t reserved_bytes_ = 0;
  RequestId next_id_ = 1;
  EngineMetrics totals_;
  state::StepBatch batch_;
  std::vector<float> logits_;
  ThreadPool sampling_threads_{1};
  backend::Arena scratch_;
};

}  // namespace heddle::engine
