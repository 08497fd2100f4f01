#pragma once
// The walk of a segment over its fold blocks, the same for the specification and for every set of
// kernels: which rows share a block, which summary they read, where one is written, which slots are
// a row's ancestors. The only code of recurrent mixers that knows how a step crosses boundaries.
#include <algorithm>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "state/batch.h"

namespace heddle::ops::linear_attention {

// Rows [row, row + tokens) of a segment: the tokens of one block, at its slots slot, slot + 1, ...
// after `slot` records of earlier steps.
struct FoldSpan {
  int64_t row = 0;
  int64_t tokens = 0;
  int64_t slot = 0;
  const float* summary = nullptr;  // at the block's first position; nullptr: zeros
  float* records = nullptr;        // the block's page
  float* next = nullptr;  // where the summary at the block's end goes; nullptr: not reached
  bool keeps = false;     // what the rows record is read after the step: it goes to `records`
};

class FoldWalk {
 public:
  // Of a part with blocks of `fold` tokens. Segment and view must outlive the walk.
  FoldWalk(const state::Segment& segment, const state::PartView& view, int64_t fold)
      : segment_(segment),
        view_(view),
        fold_(fold),
        summary_(view.summary()),
        records_(reinterpret_cast<float*>(view.open())) {}

  // The next span of the segment, in order; false: there is none.
  bool next(FoldSpan& span) {
    span.row = row_;
    span.slot = (segment_.start + row_) % fold_;
    span.tokens = std::min(fold_ - span.slot, segment_.length - row_);
    if (span.tokens == 0) return false;
    const int64_t end = row_ + span.tokens;
    const bool full = span.slot + span.tokens == fold_;
    const bool drafts = end > segment_.committed();
    const bool folds = full && (!drafts || reached_ < view_.draft_folds());
    HEDDLE_CHECK(folds || end == segment_.length, "a tree crosses a fold boundary at row {}", end);
    span.summary = summary_;
    span.records = records_;
    span.next = !folds ? nullptr : drafts ? view_.draft_summary(reached_) : view_.next_summary();
    HEDDLE_CHECK(!folds || span.next != nullptr, "no room for a summary at {}",
                 segment_.start + end);
    span.keeps = drafts || !full;
    row_ = end;
    if (folds) summary_ = span.next;
    if (folds && drafts) records_ = reinterpret_cast<float*>(view_.draft_open(reached_++));
    return true;
  }

 private:
  const state::Segment& segment_;
  const state::PartView& view_;
  int64_t fold_;
  const float* summary_;
  float* records_;
  int64_t row_ = 0;
  int64_t reached_ = 0;  // boundaries by drafts
};

// The slots that the tokens of a span follow.
class Ancestors {
 public:
  static constexpr int64_t kMaxFold = 64;

  Ancestors(const state::Segment& segment, const FoldSpan& span) {
    for (int64_t j = 0; j < span.slot; ++j) parent_[j] = static_cast<int8_t>(j - 1);
    for (int64_t t = 0; t < span.tokens; ++t) {
      const int64_t row = segment.parent(span.row + t);
      HEDDLE_CHECK(row >= span.row - 1, "row {} follows row {}, before the open block",
                   span.row + t, row);
      parent_[span.slot + t] = static_cast<int8_t>(span.slot + row - span.row);
      tree_ = tree_ || row != span.row + t - 1;
    }
    for (int64_t t = 0; tree_ && t < span.tokens; ++t) {
      int8_t* path = path_[t];
      int64_t length = 0;
      for (int64_t j = parent(span.slot + t); j >= 0; j = parent(j))
        path[length++] = static_cast<int8_t>(j);
      std::reverse(path, path + length);
      length_[t] = static_cast<int8_t>(length);
    }
  }

  // False: the ancestors of every token are all slots before it.
  bool tree() const { return tree_; }
  // The slot that a slot follows; -1: the boundary.
  int64_t parent(int64_t slot) const { return parent_[slot]; }
  // The ancestors of token t of a tree, oldest first.
  std::span<const int8_t> path(int64_t t) const {
    return {path_[t], static_cast<size_t>(length_[t])};
  }

 private:
  bool tree_ = false;
  int8_t parent_[kMaxFold];  // of each slot, old and new
  int8_t path_[kMaxFold][kMaxFold];
  int8_t length_[kMaxFold];
};

}  // namespace heddle::ops::linear_attention
