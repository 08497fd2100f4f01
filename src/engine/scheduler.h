#pragma once
// Which tokens run in the next step. Pure: no device, clock or thread inside; the planner's
// simulator runs the same code.
#include <cstdint>
#include <span>
#include <vector>

namespace heddle::engine {

struct SchedulerOptions {
  int64_t step_tokens = 512;   // rows of one step, over all sequences
  int64_t max_sequences = 64;  // that run at once
};

// What the scheduler knows of a running sequence.
struct SequenceProgress {
  int64_t pending =
      0;  // tokens known but not yet run: the rest of the prompt, or the one token just sampled
  int64_t next_cut =
      0;  // run at most this many in one step (a snapshot is due after them); 0 = no cut
  int64_t row_limit = 0;  // rows of one step at most (0 = no limit)
  bool decoding = false;
};

struct PlannedChunk {
  int64_t sequence = 0;  // index into the progress list
  int64_t tokens = 0;
};

// Decoding sequences run every step; what is left of the budget goes to prompts in order of
// arrival, shared evenly when several wait, so that a long prompt neither stalls decoding nor
// starves a short one behind it. At least one token runs when anything is pending.
std::vector<PlannedChunk> plan_step(std::span<const SequenceProgress> running,
                                    const SchedulerOptions& options);

}  // namespace heddle::engine
