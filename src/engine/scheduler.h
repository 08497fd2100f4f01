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

// A running sequence as a prompt that is about to be read sees it.
struct InFlight {
  int64_t common = 0;    // tokens that both begin with; 0: the two may not share
  int64_t position = 0;  // of its tokens read so far
  bool same = false;     // the prompts are the same, and the last token of its own is still to run
};

struct Join {
  int64_t sequence = -1;  // index into the list; -1: there is nothing to gain
  int64_t position = 0;   // where its state becomes the other's too
};

// Fewer tokens are not worth a chunk that ends where they end.
constexpr int64_t kWorthJoining = 64;

// Whose state a prompt of `prompt_tokens` takes over, and where: where the two part, so that they
// read together what they have in common; before the last token, which each has to run itself, or
// behind it if the whole prompts are the same. Only if that is further than the `cached` tokens
// that can be resumed already; the furthest place, and there the earliest sequence. `trims`: the
// state of a sequence that has passed the place serves too.
Join plan_join(std::span<const InFlight> running, int64_t prompt_tokens, int64_t cached,
               bool trims);

}  // namespace heddle::engine
