#pragma once
// Blocks with a page of every part of a group: the shorter form of complete ones, copies that may
// be written, and the page of one part as it was written.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "state/block.h"
#include "state/layout.h"

namespace heddle::state {

// The shorter form of a complete page in a block of its own (PackedHead), or the page itself if it
// has none. Parts with a codec are packed if their page has a shorter form, the others keep theirs.
BlockRef pack_block(const StateLayout& layout, const PageGroup& group, BlockRef page,
                    BlockPool& pool);

// A copy in the long form with the first `records` records of every part.
BlockRef copy_block(const StateLayout& layout, const PageGroup& group, const BlockRef& page,
                    int64_t records, BlockPool& pool);

// One part's page: in the block, or unpacked into `scratch`.
std::byte* plain_page(const StatePart& part, const PartPlace& place, const BlockRef& page,
                      std::vector<std::byte>& scratch);

}  // namespace heddle::state
