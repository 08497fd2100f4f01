#pragma once
// A model for tests: parts of every growth class whose records are a known function of the tokens
// before them, so that any record, summary or snapshot can be checked against the tokens alone.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "state/step.h"

namespace heddle::state::fake {

// Every growth class: both sizes of window, with and without sinks, several fold lengths, layouts
// of records, element types.
StateLayout full_layout();
// Per-token parts only: any position inside stored pages can be resumed.
StateLayout attention_layout();
// Per-token parts, a folded part and a convolution tail.
StateLayout hybrid_layout();
// Per-token parts and a fold of 64 without a convolution.
StateLayout fold_layout();
// Folds of 1, 2, 4, 8 and 16 beside a convolution tail.
StateLayout small_folds_layout();
// Per-token parts and sliding windows of 200, with sinks and without.
StateLayout sliding_layout();

// What record of the token after which `path` is the whole prefix (its last token included) must
// be: [strips][strip] in record order.
std::vector<std::byte> expected_record(const StateLayout& layout, int64_t part,
                                       std::span<const int32_t> path);
// The summary of `tokens` (a multiple of the fold length of them).
std::vector<float> expected_summary(const StateLayout& layout, int64_t part,
                                    std::span<const int32_t> tokens);

// Empty if `snapshot` holds everything the resume rule asks for after `tokens`, with the right
// values; else what is wrong.
std::string check_snapshot(const StateLayout& layout, const Snapshot& snapshot,
                           std::span<const int32_t> tokens);

// Everything that a segment of a step after the tokens `before` may read. Empty if all was as
// expected; else what was wrong.
std::string check_segment(const StateLayout& layout, const StepBatch& step, int64_t index,
                          std::span<const int32_t> before);
// What the mixers of the fake model do with it.
void run_segment(const StateLayout& layout, const StepBatch& step, int64_t index,
                 std::span<const int32_t> before);
// The record of the last token before a segment in part 0, which keeps every record as it is: it
// tells all that came before.
std::vector<std::byte> last_record(const StateLayout& layout, const StepBatch& step,
                                   int64_t segment);

struct DraftTree {
  std::vector<int32_t> tokens;
  std::vector<int32_t> parents;   // as Segment::parents; empty: a chain
  std::vector<int32_t> accepted;  // the path that verification keeps
};

// A running sequence with its tokens.
class Sequence {
 public:
  Sequence(const StateLayout& layout, BlockPool& pool) : layout_(&layout), state_(layout, pool) {}
  Sequence(const StateLayout& layout, BlockPool& pool, const Snapshot& snapshot,
           std::span<const int32_t> tokens)
      : layout_(&layout), state_(layout, pool, snapshot), tokens_(tokens.begin(), tokens.end()) {}

  // One step: what a mixer does for one segment, checking everything it may read first. Empty if
  // all was as expected; else what was wrong.
  std::string step(std::span<const int32_t> committed, const DraftTree& drafts = {});
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const SequenceState& state() const { return state_; }
  Snapshot snapshot() const { return state_.snapshot(); }
  std::string check() const { return check_snapshot(*layout_, state_.snapshot(), tokens_); }

 private:
  const StateLayout* layout_;
  SequenceState state_;
  std::vector<int32_t> tokens_;
};

}  // namespace heddle::state::fake
