#include "state/page_block.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/round_up.h"

namespace heddle::state {

namespace {

int64_t aligned(int64_t bytes) { return round_up(bytes, PackedHead::kUnit); }

// Packed blocks come in few sizes, 1/32 of a page apart, so that freed ones are of use again.
int64_t packed_size(const PageGroup& group, int64_t bytes) {
  return round_up(bytes, aligned(group.page_bytes / 32));
}

// If every part with a codec packs.
int64_t least_packed_bytes(const StateLayout& layout, const PageGroup& group) {
  int64_t bytes = PackedHead::bytes(std::ssize(group.parts));
  for (const int64_t i : group.parts) {
    const StatePart& part = layout.part(i);
    bytes += aligned(part.codec != nullptr ? part.packed_bytes() : part.page_bytes());
  }
  return bytes;
}

}  // namespace

BlockRef pack_block(const StateLayout& layout, const PageGroup& group, BlockRef page,
                    BlockPool& pool) {
  if (!group.packs) return page;
  const int64_t expected = packed_size(group, least_packed_bytes(layout, group));
  if (expected >= group.page_bytes) return page;
  BlockRef packed = pool.allocate(expected, group.growth);
  int64_t end = PackedHead::bytes(std::ssize(group.parts));
  int64_t rest = 0;            // bytes of the pages that stay as they are
  std::vector<int64_t> plain;  // their parts
  for (const int64_t i : group.parts) {
    const StatePart& part = layout.part(i);
    const PartPlace& place = layout.place(i);
    if (part.codec != nullptr &&
        part.codec->pack(page.data() + place.offset, part.page_bytes(), packed.data() + end)) {
      PackedHead(packed.data()).set(place.index, end, true);
      end += aligned(part.packed_bytes());
    } else {
      plain.push_back(i);
      rest += aligned(part.page_bytes());
    }
  }
  if (end + rest > packed.bytes()) {
    const int64_t bytes = packed_size(group, end + rest);
    if (bytes >= group.page_bytes) return page;
    BlockRef larger = pool.allocate(bytes, group.growth);
    std::memcpy(larger.data(), packed.data(), static_cast<size_t>(end));
    packed = std::move(larger);
  }
  for (const int64_t i : plain) {
    const int64_t bytes = layout.part(i).page_bytes();
    std::memcpy(packed.data() + end, page.data() + layout.place(i).offset,
                static_cast<size_t>(bytes));
    PackedHead(packed.data()).set(layout.place(i).index, end, false);
    end += aligned(bytes);
  }
  packed.set_packed();
  return packed;
}

BlockRef copy_block(const StateLayout& layout, const PageGroup& group, const BlockRef& page,
                    int64_t records, BlockPool& pool) {
  BlockRef copy = pool.allocate(group.page_bytes, group.growth);
  std::vector<std::byte> scratch;
  for (const int64_t i : group.parts) {
    const StatePart& part = layout.part(i);
    const std::byte* from = plain_page(part, layout.place(i), page, scratch);
    std::byte* to = copy.data() + layout.place(i).offset;
    const int64_t strip_bytes = dtype_bytes(part.dtype, part.strip);
    const int64_t stride = strip_bytes * part.page_records;
    for (int64_t strip = 0; strip < part.strips; ++strip) {
      std::memcpy(to + strip * stride, from + strip * stride,
                  static_cast<size_t>(strip_bytes * records));
    }
  }
  return copy;
}

std::byte* plain_page(const StatePart& part, const PartPlace& place, const BlockRef& page,
                      std::vector<std::byte>& scratch) {
  if (!page.packed()) return page.data() + place.offset;
  const PackedHead head(page.data());
  std::byte* stored = page.data() + head.offset(place.index);
  if (!head.packed(place.index)) return stored;
  scratch.resize(static_cast<size_t>(part.page_bytes()));
  part.codec->unpack(stored, part.page_bytes(), scratch.data());
  return scratch.data();
}

}  // namespace heddle::state
