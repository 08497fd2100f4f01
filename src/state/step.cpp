#include "state/step.h"

#include <algorithm>

#include "base/check.h"

namespace heddle::state {

void StepBatch::clear() {
  segments_.clear();
  sequences_.clear();
  parents_.clear();
  tokens_.clear();
  positions_.clear();
  rows_.clear();
  views_.clear();
}

int64_t StepBatch::add(SequenceState& sequence, std::span<const int32_t> tokens, RowRange wanted,
                       const DraftTree& drafts) {
  HEDDLE_CHECK(drafts.parents.empty() || drafts.parents.size() == drafts.tokens.size(),
               "{} parents of {} drafts", drafts.parents.size(), drafts.tokens.size());
  Segment segment;
  segment.row = std::ssize(tokens_);
  segment.start = sequence.position();
  segment.length = std::ssize(tokens) + std::ssize(drafts.tokens);
  segment.drafts = std::ssize(drafts.tokens);
  if (!drafts.parents.empty()) {
    // A vector of its own: it stays where it is when others are added.
    parents_.emplace_back(drafts.parents.begin(), drafts.parents.end());
    segment.parents = parents_.back();
  }
  HEDDLE_CHECK(
      wanted.first >= 0 && wanted.count >= 0 && wanted.first + wanted.count <= segment.length,
      "rows {} to {} of {}", wanted.first, wanted.first + wanted.count, segment.length);
  sequence.begin_step(segment.committed(), segment.drafts, segment.parents);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  tokens_.insert(tokens_.end(), drafts.tokens.begin(), drafts.tokens.end());
  for (int64_t i = 0; i < segment.length; ++i) {
    const int64_t parent = segment.parent(i);
    HEDDLE_CHECK(parent >= -1 && parent < i, "row {} follows row {}", i, parent);
    const int64_t depth =
        parent < 0 ? segment.start : positions_[static_cast<size_t>(segment.row + parent)] + 1;
    positions_.push_back(static_cast<int32_t>(depth));
  }
  for (int64_t i = 0; i < wanted.count; ++i)
    rows_.push_back(static_cast<int32_t>(segment.row + wanted.first + i));
  for (int64_t part = 0; part < layout_->parts(); ++part)
    views_.push_back(sequence.part_view(part));
  segments_.push_back(segment);
  sequences_.push_back(&sequence);
  return segments() - 1;
}

BatchView StepBatch::batch() const {
  BatchView view;
  view.tokens = std::ssize(tokens_);
  view.segments = segments_;
  view.positions = positions_;
  return view;
}

StateView StepBatch::state(int64_t layer) const {
  // Those of the other layers lie between.
  return parts_from(layout_->first_part[static_cast<size_t>(layer)]);
}

StateView StepBatch::parts_from(int64_t first) const {
  const std::span<const PartView> views = views_;
  return {views.subspan(std::min(static_cast<size_t>(first), views.size())), layout_->parts()};
}

void StepBatch::commit(int64_t segment, std::span<const int32_t> accepted) {
  sequence(segment).commit(accepted);
}

}  // namespace heddle::state
