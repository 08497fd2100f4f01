#pragma once
// The parts of all layers of a model, and which of them live and die together: parts of one growth
// class, page size and window form a group, whatever their layers. A group has one list of pages
// for all its parts; a page of it is one block with a page of every part, a summary of it one block
// with a summary of every part. So a sequence of any number of layers is a list of blocks a group.
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "state/state_part.h"

namespace heddle::state {

struct PageGroup {
  // What its parts have in common, as StatePart says.
  Growth growth = Growth::per_token;
  int64_t page_records = kPageTokens;
  int64_t window = 0;
  int64_t sinks = 0;

  std::vector<int64_t> parts;  // indices in the layout, ascending
  int64_t page_bytes = 0;      // of a block of pages: every part at its PartPlace::offset
  int64_t summary_bytes = 0;   // of a block of summaries
  bool packs = false;          // some part has a codec

  bool stores_whole_chunk() const { return state::stores_whole_chunk(growth, page_records); }
  // The first slot, sinks aside, that a token at `next` can see.
  int64_t first_kept(int64_t next) const {
    return growth == Growth::per_token || next < window ? 0 : next - window;
  }
  int64_t pages_for(int64_t records) const { return (records + page_records - 1) / page_records; }
};

struct StateLayout {
  struct Entry {
    int64_t layer;
    StatePart part;
  };
  std::vector<Entry> entries;  // all parts, layer by layer
  std::vector<int64_t>
      first_part;  // [layers + 1]: parts of layer l are entries[first_part[l] .. first_part[l + 1])
  std::vector<PageGroup> groups;  // in the order of their first parts
  std::vector<PartPlace> places;  // [parts]

  // layers: the parts of each. Fails unless every field is in range and consistent, with a message
  // that names layer and part: mixers take sizes from files.
  static Result<StateLayout> make(std::vector<std::vector<StatePart>> layers);

  int64_t parts() const { return static_cast<int64_t>(entries.size()); }
  const StatePart& part(int64_t i) const { return entries[static_cast<size_t>(i)].part; }
  const PartPlace& place(int64_t i) const { return places[static_cast<size_t>(i)]; }
  // The largest fold length (1 when nothing folds): a snapshot at a multiple of it has no open
  // page.
  int64_t fold_length() const;
  // The smallest one (0 when nothing folds): a tree of drafts never crosses a multiple of it.
  int64_t smallest_fold() const;
};

}  // namespace heddle::state
