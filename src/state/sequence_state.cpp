#include "state/sequence_state.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "state/page_block.h"

namespace heddle::state {

namespace {

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

}  // namespace

int64_t Snapshot::bytes(Growth growth) const {
  int64_t bytes = 0;
  for (const GroupSnapshot& group : groups) {
    group.for_each_block([&](const BlockRef& block) {
      if (block && block.get()->growth == growth) bytes += block.bytes();
    });
  }
  return bytes;
}

int64_t Snapshot::bytes() const {
  return bytes(Growth::per_token) + bytes(Growth::window) + bytes(Growth::folded);
}

SequenceState::SequenceState(const StateLayout& layout, BlockPool& pool)
    : layout_(&layout), pool_(&pool), groups_(layout.groups.size()) {}

SequenceState::SequenceState(const StateLayout& layout, BlockPool& pool, Snapshot snapshot)
    : SequenceState(layout, pool) {
  HEDDLE_CHECK(snapshot.groups.size() == groups_.size(), "snapshot of {} groups, layout of {}",
               snapshot.groups.size(), groups_.size());
  position_ = snapshot.position;
  for (size_t i = 0; i < groups_.size(); ++i) {
    GroupSnapshot& from = snapshot.groups[i];
    GroupState& to = groups_[i];
    to.first_page = from.first_page;
    to.pages = std::move(from.pages);
    to.summary = std::move(from.summary);
    to.open = std::move(from.open);
    to.resize_views(from.first_page + std::ssize(to.pages));
    int64_t number = from.first_page;
    for (const BlockRef& page : to.pages) to.show(number++, page);
  }
}

int64_t SequenceState::tree_room(int64_t committed) const {
  const int64_t fold = layout_->smallest_fold();
  if (fold == 0) return kMaxDrafts;
  return std::min(kMaxDrafts, fold - (position_ + committed) % fold);
}

void SequenceState::begin_step(int64_t committed, int64_t drafts,
                               std::span<const int32_t> parents) {
  HEDDLE_CHECK(!in_step_, "a step begins before the last one has ended");
  HEDDLE_CHECK(committed >= 0 && drafts >= 0, "committed {} drafts {}", committed, drafts);
  HEDDLE_CHECK(parents.empty() || std::ssize(parents) == drafts, "{} parents of {} drafts",
               parents.size(), drafts);
  step_tree_ = branches(parents, committed);
  const int64_t room = step_tree_ ? tree_room(committed) : kMaxDrafts;
  HEDDLE_CHECK(drafts <= room, "{} drafts after position {} + {}, room for {}", drafts, position_,
               committed, room);
  in_step_ = true;
  step_committed_ = committed;
  step_drafts_ = drafts;
  if (committed + drafts == 0) return;
  try {
    make_room();
  } catch (const std::bad_alloc&) {
    drop_room();
    in_step_ = false;
    throw;
  }
}

void SequenceState::make_room() {
  for (size_t i = 0; i < groups_.size(); ++i) {
    const PageGroup& group = layout_->groups[i];
    if (group.growth == Growth::folded) {
      make_room_folded(group, groups_[i]);
    } else {
      make_room(group, groups_[i]);
    }
    groups_[i].update_view();
  }
}

// What a step that cannot begin has made so far, but for copies of shared pages: their records are
// the same.
void SequenceState::drop_room() {
  for (size_t i = 0; i < groups_.size(); ++i) {
    const PageGroup& group = layout_->groups[i];
    GroupState& state = groups_[i];
    if (group.growth == Growth::folded) {
      if (position_ % group.page_records == 0) state.open.reset();
      state.next_summary.reset();
      state.drafts.clear();
      state.draft_folds.clear();
    } else {
      const int64_t pages = group.pages_for(position_);
      state.pages.resize(static_cast<size_t>(std::max<int64_t>(0, pages - state.first_page)));
      state.resize_views(pages);
    }
    state.update_view();
  }
}

void SequenceState::make_room(const PageGroup& group, GroupState& state) {
  const int64_t records = group.page_records;
  const int64_t end = position_ + step_committed_ + step_drafts_;
  const int64_t first = position_ / records;
  // Records that nobody reads back and that do not outlive the step get no page.
  const int64_t kept =
      group.stores_whole_chunk() ? 0 : group.first_kept(position_ + step_committed_);
  state.pages.resize(static_cast<size_t>(group.pages_for(end) - state.first_page));
  state.resize_views(group.pages_for(end));
  for (int64_t page = first; page * records < end; ++page) {
    BlockRef& block = state.pages[static_cast<size_t>(page - state.first_page)];
    if (block) {
      if (block.shared() || block.packed())
        block = copy_block(*layout_, group, block, position_ - page * records, *pool_);
    } else if ((page + 1) * records > kept || page * records < group.sinks) {
      block = pool_->allocate(group.page_bytes, group.growth);
    }
    state.show(page, block);
  }
}

void SequenceState::make_room_folded(const PageGroup& group, GroupState& state) {
  const int64_t fold = group.page_records;
  if (!state.open) {
    state.open = pool_->allocate(group.page_bytes, group.growth);
  } else if (state.open.shared()) {
    state.open = copy_block(*layout_, group, state.open, position_ % fold, *pool_);
  }
  const int64_t committed = position_ + step_committed_;
  if (committed / fold > position_ / fold) {
    state.next_summary = pool_->allocate(group.summary_bytes, group.growth);
  }
  // A tree that reaches the boundary has branches: what is accepted of it does not.
  const int64_t end = step_tree_ ? committed : committed + step_drafts_;
  for (int64_t at = (committed / fold + 1) * fold; at <= end; at += fold) {
    GroupState::Draft draft{pool_->allocate(group.summary_bytes, group.growth), {}};
    if (at < end) draft.open = pool_->allocate(group.page_bytes, group.growth);
    state.draft_folds.push_back({draft.summary.data(), draft.open.data()});
    state.drafts.push_back(std::move(draft));
  }
}

PartView SequenceState::part_view(int64_t part) const {
  HEDDLE_CHECK(in_step_, "part_view outside a step");
  HEDDLE_CHECK(part >= 0 && part < layout_->parts(), "part {} of {}", part, layout_->parts());
  const PartPlace& place = layout_->place(part);
  return {groups_[static_cast<size_t>(place.group)].view, place};
}

void SequenceState::keep_path(const PageGroup& group, GroupState& state,
                              std::span<const int32_t> accepted) {
  const int64_t records = group.page_records;
  // A tree of drafts ends before a fold boundary, so those of a folded part share one page.
  const auto block_of = [&](int64_t slot) {
    return group.growth == Growth::folded ? state.open.data()
                                          : state.page_blocks[static_cast<size_t>(slot / records)];
  };
  const int64_t first = position_ + step_committed_;  // slot of draft 0
  for (size_t i = 0; i < accepted.size(); ++i) {
    const int64_t from = first + accepted[i];
    const int64_t to = first + static_cast<int64_t>(i);
    if (from == to) continue;
    for (const int64_t part : group.parts) {
      const int64_t offset = layout_->place(part).offset;
      move_record(layout_->part(part), block_of(from) + offset, from % records,
                  block_of(to) + offset, to % records);
    }
  }
}

// `committed`: the position behind the committed rows.
void SequenceState::close_step_folded(const PageGroup& group, GroupState& state,
                                      int64_t committed) {
  const int64_t fold = group.page_records;
  if (state.next_summary) state.summary = std::move(state.next_summary);
  state.next_summary.reset();
  if (const int64_t kept = position_ / fold - committed / fold; kept > 0) {
    GroupState::Draft& draft = state.drafts[static_cast<size_t>(kept - 1)];
    state.summary = std::move(draft.summary);
    state.open = std::move(draft.open);
  }
  state.drafts.clear();
  state.draft_folds.clear();
  if (position_ % fold == 0) state.open.reset();
}

void SequenceState::drop_unreachable(const PageGroup& group, GroupState& state) {
  const int64_t records = group.page_records;
  // Pages of rejected drafts.
  state.pages.resize(
      static_cast<size_t>(std::max<int64_t>(0, group.pages_for(position_) - state.first_page)));
  state.resize_views(group.pages_for(position_));
  const int64_t first_kept = group.first_kept(position_) / records;
  const int64_t last = state.first_page + static_cast<int64_t>(state.pages.size());
  for (int64_t page = state.first_page; page < std::min(first_kept, last); ++page) {
    if (page * records < group.sinks) continue;
    BlockRef& block = state.pages[static_cast<size_t>(page - state.first_page)];
    block.reset();
    state.show(page, block);
  }
  if (group.sinks == 0 && first_kept > state.first_page) {
    const int64_t gone = std::min(first_kept, last) - state.first_page;
    state.pages.erase(state.pages.begin(), state.pages.begin() + gone);
    state.first_page += gone;
  }
}

// The pages that the step completed, `before` being the position it began at.
void SequenceState::pack_pages(const PageGroup& group, GroupState& state, int64_t before) {
  const int64_t records = group.page_records;
  for (int64_t page = std::max(before / records, state.first_page); page < position_ / records;
       ++page) {
    BlockRef& block = state.pages[static_cast<size_t>(page - state.first_page)];
    if (!block) continue;
    try {
      block = pack_block(*layout_, group, block, *pool_);
    } catch (const std::bad_alloc&) {  // then it stays as it was written
      return;
    }
    state.show(page, block);
  }
}

void SequenceState::commit(std::span<const int32_t> accepted) {
  HEDDLE_CHECK(in_step_, "commit outside a step");
  for (size_t i = 0; i < accepted.size(); ++i) {
    HEDDLE_CHECK(accepted[i] >= 0 && accepted[i] < step_drafts_, "accepted draft {} of {}",
                 accepted[i], step_drafts_);
    HEDDLE_CHECK(i == 0 || accepted[i] > accepted[i - 1], "accepted drafts out of order at {}", i);
    HEDDLE_CHECK(step_tree_ || accepted[i] == static_cast<int32_t>(i),
                 "accepted draft {} of a chain follows {}", accepted[i], i);
  }
  const auto count = static_cast<int64_t>(accepted.size());
  const bool wrote = step_committed_ + step_drafts_ > 0;
  HEDDLE_CHECK(!step_tree_ || count < step_drafts_, "a path of all {} drafts of a tree", count);
  for (size_t i = 0; i < groups_.size() && step_tree_; ++i) {
    keep_path(layout_->groups[i], groups_[i], accepted);
  }
  const int64_t before = position_;
  position_ += step_committed_ + count;
  for (size_t i = 0; i < groups_.size() && wrote; ++i) {
    const PageGroup& group = layout_->groups[i];
    if (group.growth == Growth::folded) {
      close_step_folded(group, groups_[i], position_ - count);
    } else {
      drop_unreachable(group, groups_[i]);
      pack_pages(group, groups_[i], before);
    }
  }
  in_step_ = false;
}

Snapshot SequenceState::snapshot() const {
  HEDDLE_CHECK(!in_step_, "a snapshot inside a step");
  Snapshot snapshot;
  snapshot.position = position_;
  snapshot.groups.reserve(groups_.size());
  for (const GroupState& state : groups_) {
    snapshot.groups.push_back({state.first_page, state.pages, state.summary, state.open});
  }
  return snapshot;
}

int64_t SequenceState::bytes(Growth growth) const {
  int64_t bytes = 0;
  for (size_t i = 0; i < groups_.size(); ++i) {
    if (layout_->groups[i].growth != growth) continue;
    const GroupState& state = groups_[i];
    for (const BlockRef& page : state.pages) bytes += page.bytes();
    bytes += state.summary.bytes() + state.next_summary.bytes() + state.open.bytes();
    for (const GroupState::Draft& draft : state.drafts)
      bytes += draft.summary.bytes() + draft.open.bytes();
  }
  return bytes;
}

}  // namespace heddle::state
