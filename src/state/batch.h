#pragma once
// One step's ragged batch: which rows belong to which sequence and where in it they stand. Prompt
// chunks, single decode tokens and draft windows mix freely.
#include <cstddef>
#include <cstdint>
#include <span>

#include "state/state_part.h"

namespace heddle::state {

// Whether drafts behind `committed` rows are a tree: some draft does not follow the row before it.
// parents: as Segment::parents.
inline bool branches(std::span<const int32_t> parents, int64_t committed) {
  for (const int32_t parent : parents) {
    if (parent != committed - 1) return true;
    ++committed;
  }
  return false;
}

// Rows [row, row + length) of the batch belong to one sequence. The first `length - drafts` are
// committed tokens at positions start, start + 1, ...; the others are drafts. The record of row i
// of the segment goes to slot start + i.
struct Segment {
  int64_t row = 0;
  int64_t start = 0;
  int64_t length = 0;
  int64_t drafts = 0;
  // [drafts]: the row inside the segment that draft d follows (less than length - drafts + d); -1 =
  // the last position before the segment. Empty = a chain: every draft follows the row before it.
  std::span<const int32_t> parents;

  int64_t committed() const { return length - drafts; }
  int64_t parent(int64_t i) const {  // of row i of the segment; -1 = position start - 1
    const int64_t d = i - committed();
    return d < 0 || parents.empty() ? i - 1 : parents[static_cast<size_t>(d)];
  }
  bool is_tree() const { return branches(parents, committed()); }
};

struct BatchView {
  int64_t tokens = 0;  // T, over all segments
  std::span<const Segment> segments;
  // [T]: start + depth of the row. Equals the slot except in a tree of drafts.
  std::span<const int32_t> positions;
};

// Blocks of a fold boundary that drafts reach, and of the records behind it.
struct DraftFold {
  std::byte* summary = nullptr;
  std::byte* open = nullptr;  // nullptr: no draft stands there
};

// Where the pages of one group of parts (layout.h) of one sequence lie during a step: all that a
// device needs to know of them. Pointers stay valid until the step is committed.
struct GroupView {
  // per_token, window: block pages[p] holds the records of slots [p R, p R + R); nullptr where
  // nothing is kept or stored.
  std::byte* const* pages = nullptr;
  // packed[p]: whether block p begins with a PackedHead.
  const uint8_t* packed = nullptr;
  // folded, blocks of what PartView says.
  const std::byte* summary = nullptr;
  std::byte* open = nullptr;
  std::byte* next_summary = nullptr;
  std::span<const DraftFold> draft_folds;
};

// Where one part of one sequence is stored during a step.
class PartView {
 public:
  PartView() = default;
  // Both must outlive it.
  PartView(const GroupView& group, const PartPlace& place) : group_(&group), place_(&place) {}

  // per_token, window: holds the records of slots [p R, p R + R); nullptr where nothing is kept or
  // stored. A page may be written only at slots >= the segment's start.
  std::byte* page(int64_t p) const {
    std::byte* block = group_->pages[p];
    const bool moved = group_->packed[p] != 0;
    return at(block, moved ? PackedHead(block).offset(place_->index) : place_->offset);
  }
  // Whether page p holds the packed form of its records (StatePart::codec); never a page that may
  // be written.
  bool is_packed(int64_t p) const {
    return group_->packed[p] != 0 && PackedHead(group_->pages[p]).packed(place_->index);
  }
  // Fetches what page(p) and is_packed(p) read.
  void prefetch(int64_t p) const {
    if (group_->packed[p] != 0) PackedHead(group_->pages[p]).prefetch(place_->index);
  }
  // folded: summary at floor(start / F) F (nullptr: all zeros), records since it in slots [start
  // mod F ...) of open().
  const float* summary() const { return floats(const_cast<std::byte*>(group_->summary)); }
  std::byte* open() const { return at(group_->open, place_->offset); }
  // folded: non-null iff the committed rows of the segment reach a fold boundary; the mixer leaves
  // the summary at the last such boundary here (it may use it for the ones before) and the records
  // after it in open() from slot 0.
  float* next_summary() const { return floats(group_->next_summary); }
  // folded: the boundaries that a chain of drafts reaches behind the committed rows. The mixer
  // leaves the summary at the c-th in draft_summary(c) and the records behind it in draft_open(c),
  // which open() holds of the ones before, from slot 0: what is kept of them is known only at the
  // commit.
  int64_t draft_folds() const { return static_cast<int64_t>(group_->draft_folds.size()); }
  float* draft_summary(int64_t c) const { return floats(draft(c).summary); }
  std::byte* draft_open(int64_t c) const { return at(draft(c).open, place_->offset); }

 private:
  static std::byte* at(std::byte* block, int64_t offset) {
    return block == nullptr ? nullptr : block + offset;
  }
  const DraftFold& draft(int64_t c) const { return group_->draft_folds[static_cast<size_t>(c)]; }
  float* floats(std::byte* summary) const {
    return reinterpret_cast<float*>(at(summary, place_->summary_offset));
  }
  const GroupView* group_ = nullptr;
  const PartPlace* place_ = nullptr;
};

// The parts of one layer for every segment of a batch.
struct StateView {
  std::span<const PartView> views;  // [segments][parts]
  int64_t parts = 0;
  const PartView& at(int64_t segment, int64_t part) const {
    return views[static_cast<size_t>(segment * parts + part)];
  }
};

}  // namespace heddle::state
