#pragma once
// One step's ragged batch: which rows belong to which sequence and where in it they stand. Prompt
// chunks, single decode tokens and draft windows mix freely.
#include <cstddef>
#include <cstdint>
#include <span>

namespace heddle::state {

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
  bool is_tree() const { return drafts > 0 && !parents.empty(); }
};

struct BatchView {
  int64_t tokens = 0;  // T, over all segments
  std::span<const Segment> segments;
  // [T]: start + depth of the row. Equals the slot except in a tree of drafts.
  std::span<const int32_t> positions;
};

// Where one part of one sequence is stored during a step. Pointers stay valid until the step is
// committed.
struct PartView {
  // per_token, window: pages[p] holds the records of slots [p R, p R + R); nullptr where nothing is
  // kept or stored. A page may be written only at slots >= the segment's start.
  std::byte* const* pages = nullptr;
  // packed[p]: page p holds the packed form of its records (StatePart::codec); never a page that
  // may be written. nullptr: no page does.
  const uint8_t* packed = nullptr;
  bool is_packed(int64_t page) const { return packed != nullptr && packed[page] != 0; }
  // folded: summary at floor(start / F) F (nullptr: all zeros), records since it in slots [start
  // mod F ...) of `open`.
  const float* summary = nullptr;
  std::byte* open = nullptr;
  // folded: non-null iff the committed rows of the segment reach a fold boundary; the mixer leaves
  // the summary at the last such boundary here (it may use it for the ones before) and the records
  // after it in `open` from slot 0.
  float* next_summary = nullptr;
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
