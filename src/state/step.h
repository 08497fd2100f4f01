#pragma once
// The one builder of a step: which tokens of which sequences run together, where they stand, where
// their state lies, and which rows somebody wants.
//
//   StepBatch step(layout);
//   step.add(sequence, tokens, wanted);     begins the sequence's step
//   ... the model runs: batch(), tokens(), rows(), state(layer) ...
//   step.commit(segment, accepted);         ends it
#include <cstdint>
#include <span>
#include <vector>

#include "state/batch.h"
#include "state/sequence_state.h"

namespace heddle::state {

// Drafts behind the committed tokens of a segment.
struct DraftTree {
  std::span<const int32_t> tokens;
  std::span<const int32_t> parents;  // [tokens] as Segment::parents; empty: a chain
};

// Rows of one segment, drafts included.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
};

class StepBatch {
 public:
  // The layout of every sequence that is added; must outlive it.
  explicit StepBatch(const StateLayout& layout) : layout_(&layout) {}
  StepBatch(const StepBatch&) = delete;
  StepBatch& operator=(const StepBatch&) = delete;

  // For the next step; memory is kept.
  void clear();
  // Begins a step of `sequence` with `tokens` (committed) and drafts behind them; both are copied.
  // The sequence must outlive the step. Returns the index of its segment. Throws std::bad_alloc
  // where memory runs out; sequence and batch are then as they were.
  int64_t add(SequenceState& sequence, std::span<const int32_t> tokens, RowRange wanted = {},
              const DraftTree& drafts = {});

  int64_t segments() const { return static_cast<int64_t>(segments_.size()); }
  const Segment& segment(int64_t i) const { return segments_[static_cast<size_t>(i)]; }
  SequenceState& sequence(int64_t i) const { return *sequences_[static_cast<size_t>(i)]; }

  // What the model reads. Valid until the next add() or clear().
  BatchView batch() const;
  std::span<const int32_t> tokens() const { return tokens_; }  // [T]
  // Rows of the batch whose output is wanted, ascending.
  std::span<const int32_t> rows() const { return rows_; }
  // The parts of a layer, for every segment. Until the first commit().
  StateView state(int64_t layer) const;
  // The same by the index of its first part in the layout.
  StateView parts_from(int64_t first) const;

  // Ends the step of one segment: `accepted` as SequenceState::commit.
  void commit(int64_t segment, std::span<const int32_t> accepted = {});

 private:
  const StateLayout* layout_;
  std::vector<Segment> segments_;
  std::vector<SequenceState*> sequences_;      // [segments]
  std::vector<std::vector<int32_t>> parents_;  // of trees; segments_ point into them
  std::vector<int32_t> tokens_;                // [T]
  std::vector<int32_t> positions_;             // [T]
  std::vector<int32_t> rows_;
  std::vector<PartView> views_;  // [segments][parts of the layout]
};

}  // namespace heddle::state
