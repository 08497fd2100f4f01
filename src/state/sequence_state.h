#pragma once
// The state of one sequence: pages, open tails and summaries of every part, and the step protocol
// over them.
//
//   begin_step(committed, drafts)   makes room for the records (copying shared open pages first)
//   ... the model runs; mixers write through part_view() ...
//   commit(accepted)                keeps the committed records and the accepted path of drafts,
//                                   drops the others
//
// Committed rows fold inside the step. So do drafts of a chain, into summaries that commit() keeps
// if it keeps the drafts that they stand behind. A tree of drafts ends before a boundary.
#include <cstdint>
#include <span>
#include <vector>

#include "state/batch.h"
#include "state/block.h"
#include "state/layout.h"

namespace heddle::state {

// References to everything that resuming at `position` needs (the resume rule), a list of blocks a
// group. Cheap to copy; never changes.
struct GroupSnapshot {
  int64_t first_page = 0;  // page index of pages[0]
  std::vector<BlockRef>
      pages;  // per_token, window: up to the (partial) page of position - 1; a dropped page is null
  BlockRef summary;  // folded: at floor(position / F) F; null at boundary 0
  BlockRef open;     // folded: the records since; null when there are none

  // Calls visit(block) with every reference, null ones as well.
  template <class Visit>
  void for_each_block(const Visit& visit) const {
    for (const BlockRef& page : pages) visit(page);
    visit(summary);
    visit(open);
  }
};
struct Snapshot {
  int64_t position = 0;
  std::vector<GroupSnapshot> groups;  // as in the StateLayout
  // Bytes of the blocks it refers to (shared or not), by growth class.
  int64_t bytes(Growth growth) const;
  int64_t bytes() const;
};

class SequenceState {
 public:
  // Empty, at position 0. Layout and pool must outlive it.
  SequenceState(const StateLayout& layout, BlockPool& pool);
  // Resumes from a snapshot of the same layout; shares all its blocks.
  SequenceState(const StateLayout& layout, BlockPool& pool, Snapshot snapshot);
  // A fork is a snapshot and a second state of it, never a copy of the state.
  SequenceState(const SequenceState&) = delete;
  SequenceState& operator=(const SequenceState&) = delete;
  SequenceState(SequenceState&&) = default;
  SequenceState& operator=(SequenceState&&) = default;

  int64_t position() const { return position_; }  // committed tokens
  // How many drafts may follow `committed` more tokens in a chain, each behind the one before.
  static constexpr int64_t kMaxDrafts = 64;
  // How many in a tree: up to the next fold boundary of any part.
  int64_t tree_room(int64_t committed) const;

  // parents: as Segment::parents. Throws std::bad_alloc where memory for the records runs out; the
  // sequence is then as it was.
  void begin_step(int64_t committed, int64_t drafts, std::span<const int32_t> parents = {});
  PartView part_view(int64_t part) const;
  // `accepted`: indices among the drafts, increasing, each the child of the one before: the path
  // that is kept.
  void commit(std::span<const int32_t> accepted = {});

  // At the current position; allowed between steps only.
  Snapshot snapshot() const;
  // Bytes of the blocks this state refers to, by growth class.
  int64_t bytes(Growth growth) const;

 private:
  struct GroupState {
    int64_t first_page = 0;               // pages before it are gone; 0 when there are sinks
    std::vector<BlockRef> pages;          // [i]: page first_page + i
    std::vector<std::byte*> page_blocks;  // [p]: absolute page p, as mixers see it
    std::vector<uint8_t> packed;          // [p]: whether page p is packed
    BlockRef summary;
    BlockRef next_summary;
    BlockRef open;
    struct Draft {
      BlockRef summary;
      BlockRef open;
    };
    std::vector<Draft> drafts;           // of every boundary that drafts reach
    std::vector<DraftFold> draft_folds;  // [drafts], as mixers see them
    GroupView view;

    // Mixers see `count` pages from now on, page `page` as it is in `block`.
    void resize_views(int64_t count) {
      page_blocks.resize(static_cast<size_t>(count));
      packed.resize(static_cast<size_t>(count));
    }
    void show(int64_t page, const BlockRef& block) {
      page_blocks[static_cast<size_t>(page)] = block.data();
      packed[static_cast<size_t>(page)] = block.packed();
    }
    void update_view() {
      view = {page_blocks.data(), packed.data(),       summary.data(),
              open.data(),        next_summary.data(), draft_folds};
    }
  };
  void make_room();
  void make_room(const PageGroup& group, GroupState& state);
  void make_room_folded(const PageGroup& group, GroupState& state);
  void drop_room();
  void keep_path(const PageGroup& group, GroupState& state, std::span<const int32_t> accepted);
  void close_step_folded(const PageGroup& group, GroupState& state, int64_t committed);
  void drop_unreachable(const PageGroup& group, GroupState& state);
  void pack_pages(const PageGroup& group, GroupState& state, int64_t before);

  const StateLayout* layout_;
  BlockPool* pool_;
  std::vector<GroupState> groups_;
  int64_t position_ = 0;
  int64_t step_committed_ = 0;
  int64_t step_drafts_ = 0;
  bool step_tree_ = false;
  bool in_step_ = false;
};

}  // namespace heddle::state
