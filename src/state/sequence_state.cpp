#include "state/sequence_state.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace heddle::state {

namespace {

int64_t pages_for(int64_t records, int64_t page_records) {
  return (records + page_records - 1) / page_records;
}

// Copies record `from` of page `source` to record `to` of page `target`.
void move_record(const StatePart& part, const std::byte* source, int64_t from, std::byte* target,
                 int64_t to) {
  const int64_t strip_bytes = dtype_bytes(part.dtype, part.strip);
  const int64_t stride = strip_bytes * part.page_records;
  for (int64_t strip = 0; strip < part.strips; ++strip) {
    std::memcpy(target + strip * stride + to * strip_bytes,
                source + strip * stride + from * strip_bytes, static_cast<size_t>(strip_bytes));
  }
}

int64_t block_bytes(const std::vector<BlockRef>& pages) {
  int64_t bytes = 0;
  for (const BlockRef& page : pages) bytes += page.bytes();
  return bytes;
}

// The first slot, sinks aside, that a token at `next` can see.
int64_t first_slot_kept(const StatePart& part, int64_t next) {
  return part.growth == Growth::per_token ? 0 : std::max<int64_t>(0, next - part.window);
}

}  // namespace

int64_t Snapshot::bytes(Growth growth) const {
  int64_t bytes = 0;
  for (const PartSnapshot& part : parts) {
    for (const BlockRef& page : part.pages) {
      if (page && page.get()->growth == growth) bytes += page.bytes();
    }
    if (growth == Growth::folded) bytes += part.summary.bytes() + part.open.bytes();
  }
  return bytes;
}

int64_t Snapshot::bytes() const {
  return bytes(Growth::per_token) + bytes(Growth::window) + bytes(Growth::folded);
}

SequenceState::SequenceState(const StateLayout& layout, BlockPool& pool)
    : layout_(&layout), pool_(&pool), parts_(layout.entries.size()) {}

SequenceState::SequenceState(const StateLayout& layout, BlockPool& pool, const Snapshot& snapshot)
    : SequenceState(layout, pool) {
  HEDDLE_CHECK(snapshot.parts.size() == parts_.size(), "snapshot of {} parts, layout of {}",
               snapshot.parts.size(), parts_.size());
  position_ = snapshot.position;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const PartSnapshot& from = snapshot.parts[i];
    PartState& to = parts_[i];
    to.first_page = from.first_page;
    to.pages = from.pages;
    to.summary = from.summary;
    to.open = from.open;
    to.resize_views(from.first_page + std::ssize(to.pages));
    int64_t number = from.first_page;
    for (const BlockRef& page : to.pages) to.show(number++, page);
  }
}

int64_t SequenceState::draft_room(int64_t committed) const {
  const int64_t fold = layout_->smallest_fold();
  if (fold == 0) return kMaxDrafts;
  return std::min(kMaxDrafts, fold - (position_ + committed) % fold);
}

void SequenceState::begin_step(int64_t committed, int64_t drafts) {
  HEDDLE_CHECK(!in_step_ && !fold_due_, "a step begins before the last one has ended");
  HEDDLE_CHECK(committed >= 0 && drafts >= 0, "committed {} drafts {}", committed, drafts);
  HEDDLE_CHECK(drafts <= draft_room(committed), "{} drafts after position {} + {}, room for {}",
               drafts, position_, committed, draft_room(committed));
  in_step_ = true;
  step_committed_ = committed;
  step_drafts_ = drafts;
  if (committed + drafts == 0) return;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const StatePart& part = layout_->entries[i].part;
    if (part.growth == Growth::folded) {
      make_room_folded(part, parts_[i]);
    } else {
      make_room(part, parts_[i]);
    }
  }
}

BlockRef SequenceState::copy_records(const StatePart& part, const BlockRef& page, int64_t records) {
  BlockRef copy = pool_->allocate(part.page_bytes(), part.growth);
  if (page.packed()) {
    part.codec->unpack(page.data(), part.page_bytes(), copy.data());
    return copy;
  }
  const int64_t strip_bytes = dtype_bytes(part.dtype, part.strip);
  const int64_t stride = strip_bytes * part.page_records;
  for (int64_t strip = 0; strip < part.strips; ++strip) {
    std::memcpy(copy.data() + strip * stride, page.data() + strip * stride,
                static_cast<size_t>(strip_bytes * records));
  }
  return copy;
}

void SequenceState::make_room(const StatePart& part, PartState& state) {
  const int64_t records = part.page_records;
  const int64_t end = position_ + step_committed_ + step_drafts_;
  const int64_t first = position_ / records;
  // Records that nobody reads back and that do not outlive the step get no page.
  const int64_t kept =
      part.stores_whole_chunk() ? 0 : first_slot_kept(part, position_ + step_committed_);
  state.pages.resize(static_cast<size_t>(pages_for(end, records) - state.first_page));
  state.resize_views(pages_for(end, records));
  for (int64_t page = first; page * records < end; ++page) {
    BlockRef& block = state.pages[static_cast<size_t>(page - state.first_page)];
    if (block) {
      if (block.shared() || block.packed())
        block = copy_records(part, block, position_ - page * records);
    } else if ((page + 1) * records > kept || page * records < part.sinks) {
      block = pool_->allocate(part.page_bytes(), part.growth);
    }
    state.show(page, block);
  }
}

void SequenceState::make_room_folded(const StatePart& part, PartState& state) {
  const int64_t fold = part.page_records;
  if (!state.open) {
    state.open = pool_->allocate(part.page_bytes(), part.growth);
  } else if (state.open.shared()) {
    state.open = copy_records(part, state.open, position_ % fold);
  }
  if ((position_ + step_committed_) / fold > position_ / fold) {
    state.next_summary = pool_->allocate(part.summary_bytes(), part.growth);
  }
}

PartView SequenceState::part_view(int64_t part) const {
  HEDDLE_CHECK(in_step_ || fold_due_, "part_view outside a step");
  HEDDLE_CHECK(part >= 0 && part < layout_->parts(), "part {} of {}", part, layout_->parts());
  const PartState& state = parts_[static_cast<size_t>(part)];
  PartView view;
  view.pages = state.page_pointers.data();
  view.packed = state.packed.data();
  view.summary = reinterpret_cast<const float*>(state.summary.data());
  view.open = state.open.data();
  view.next_summary = reinterpret_cast<float*>(state.next_summary.data());
  return view;
}

void SequenceState::keep_path(const StatePart& part, PartState& state,
                              std::span<const int32_t> accepted) {
  const int64_t records = part.page_records;
  const bool folded = part.growth == Growth::folded;
  // Slot of draft 0. Drafts never cross a fold boundary, so those of a folded part share one page.
  const int64_t first = position_ + step_committed_;
  for (size_t i = 0; i < accepted.size(); ++i) {
    const int64_t from = first + accepted[i];
    const int64_t to = first + static_cast<int64_t>(i);
    if (from == to) continue;
    std::byte* source =
        folded ? state.open.data() : state.page_pointers[static_cast<size_t>(from / records)];
    std::byte* target =
        folded ? state.open.data() : state.page_pointers[static_cast<size_t>(to / records)];
    move_record(part, source, from % records, target, to % records);
  }
}

void SequenceState::close_step_folded(const StatePart& part, PartState& state, int64_t accepted) {
  const int64_t fold = part.page_records;
  if (state.next_summary) state.summary = std::move(state.next_summary);
  state.next_summary.reset();
  if (position_ % fold != 0) return;
  if (accepted > 0) {  // the records of the completed block wait for the model to fold them
    state.next_summary = pool_->allocate(part.summary_bytes(), part.growth);
    fold_due_ = true;
  } else {
    state.open.reset();
  }
}

void SequenceState::drop_unreachable(const StatePart& part, PartState& state) {
  const int64_t records = part.page_records;
  // Pages of rejected drafts.
  state.pages.resize(
      static_cast<size_t>(std::max<int64_t>(0, pages_for(position_, records) - state.first_page)));
  state.resize_views(pages_for(position_, records));
  const int64_t first_kept = first_slot_kept(part, position_) / records;
  const int64_t last = state.first_page + static_cast<int64_t>(state.pages.size());
  for (int64_t page = state.first_page; page < std::min(first_kept, last); ++page) {
    if (page * records < part.sinks) continue;
    BlockRef& block = state.pages[static_cast<size_t>(page - state.first_page)];
    block.reset();
    state.show(page, block);
  }
  if (part.sinks == 0 && first_kept > state.first_page) {
    const int64_t gone = std::min(first_kept, last) - state.first_page;
    state.pages.erase(state.pages.begin(), state.pages.begin() + gone);
    state.first_page += gone;
  }
}

// The pages that the step completed, `before` being the position it began at.
void SequenceState::pack_pages(const StatePart& part, PartState& state, int64_t before) {
  const int64_t records = part.page_records;
  for (int64_t page = std::max(before / records, state.first_page); page < position_ / records;
       ++page) {
    BlockRef& block = state.pages[static_cast<size_t>(page - state.first_page)];
    if (!block) continue;
    block = pool_->pack(part, std::move(block));
    state.show(page, block);
  }
}

void SequenceState::commit(std::span<const int32_t> accepted) {
  HEDDLE_CHECK(in_step_, "commit outside a step");
  for (size_t i = 0; i < accepted.size(); ++i) {
    HEDDLE_CHECK(accepted[i] >= 0 && accepted[i] < step_drafts_, "accepted draft {} of {}",
                 accepted[i], step_drafts_);
    HEDDLE_CHECK(i == 0 || accepted[i] > accepted[i - 1], "accepted drafts out of order at {}", i);
  }
  const auto count = static_cast<int64_t>(accepted.size());
  const bool wrote = step_committed_ + step_drafts_ > 0;
  for (size_t i = 0; i < parts_.size() && wrote; ++i) {
    keep_path(layout_->entries[i].part, parts_[i], accepted);
  }
  const int64_t before = position_;
  position_ += step_committed_ + count;
  for (size_t i = 0; i < parts_.size() && wrote; ++i) {
    const StatePart& part = layout_->entries[i].part;
    if (part.growth == Growth::folded) {
      close_step_folded(part, parts_[i], count);
    } else {
      drop_unreachable(part, parts_[i]);
      pack_pages(part, parts_[i], before);
    }
  }
  in_step_ = false;
}

void SequenceState::finish_fold() {
  HEDDLE_CHECK(fold_due_, "finish_fold without a fold that is due");
  for (PartState& state : parts_) {
    if (!state.next_summary) continue;
    state.summary = std::move(state.next_summary);
    state.open.reset();
  }
  fold_due_ = false;
}

Snapshot SequenceState::snapshot() const {
  HEDDLE_CHECK(!in_step_ && !fold_due_, "a snapshot inside a step");
  Snapshot snapshot;
  snapshot.position = position_;
  snapshot.parts.reserve(parts_.size());
  for (const PartState& state : parts_) {
    snapshot.parts.push_back({state.first_page, state.pages, state.summary, state.open});
  }
  return snapshot;
}

int64_t SequenceState::bytes(Growth growth) const {
  int64_t bytes = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (layout_->entries[i].part.growth != growth) continue;
    const PartState& state = parts_[i];
    bytes += block_bytes(state.pages) + state.summary.bytes() + state.next_summary.bytes() +
             state.open.bytes();
  }
  return bytes;
}

}  // namespace heddle::state
