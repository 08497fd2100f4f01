#include "state/step.h"

#include <algorithm>

#include "base/check.h"

namespace heddle::state {
namespace {

template <class T>
void make_room(std::vector<T>& values, int64_t count) {
  const size_t needed = values.size() + static_cast<size_t>(count);
  if (needed > values.capacity()) values.reserve(std::max(needed, 2 * values.capacity()));
}

}  // namespace

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
  // A vector of its own: its values stay where they are when others are added.
  std::vector<int32_t> parents(drafts.parents.begin(), drafts.parents.end());
  segment.parents = parents;
  HEDDLE_CHECK(
      wanted.first >= 0 && wanted.count >= 0 && wanted.first + wanted.count <= segment.length,
      "rows {} to {} of {}", wanted.first, wanted.first + wanted.count, segment.length);
  make_room(parents_, 1);
  make_room(tokens_, segment.length);
  make_room(positions_, segment.length);
  make_room(rows_, wanted.count);
  make_room(views_, layout_->parts());
  make_room(segments_, 1);
  make_room(sequences_, 1);
  sequence.begin_step(segment.committed(), segment.drafts, segment.parents);
  // Nothing fails from here on.
  if (!parents.empty()) parents_.push_back(std::move(parents));
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
