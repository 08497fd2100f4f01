#include "state/block.h"

#include <algorithm>
#include <cstring>

#include "backend/asan.h"
#include "base/check.h"
#include "base/round_up.h"

namespace heddle::state {

namespace {

using backend::close_to_use;
using backend::open_to_use;

constexpr int64_t kAlignment = 64;
constexpr int64_t kLargestSlab = int64_t{16} << 20;

// Huge pages that blocks of so many bytes fill to 7/8 or more.
int64_t slab_bytes(int64_t stride) {
  int64_t bytes = backend::kHugePage;
  while (bytes < kLargestSlab && bytes / stride * stride < bytes / 8 * 7) bytes *= 2;
  return std::max(bytes, round_up(stride, backend::kHugePage));
}

}  // namespace

// Memory of several blocks of one size, and the blocks.
struct Slab {
  ~Slab() { open_to_use(memory.data(), memory.bytes()); }
  BlockPool::Shelf* shelf = nullptr;
  backend::Mapping memory;
  std::vector<Block> blocks;
  int64_t used = 0;  // blocks in use
};

BlockPool::BlockPool(backend::Memory& memory) : memory_(memory) {}

BlockPool::~BlockPool() {
  HEDDLE_CHECK(blocks_ == 0, "{} blocks ({} bytes) outlive their pool", blocks_, live_bytes());
}

Status BlockPool::add_slab(Shelf& shelf, int64_t bytes) {
  const int64_t stride = round_up(bytes, kAlignment) + backend::kGap;
  HEDDLE_TRY(backend::Mapping memory,
             backend::Mapping::of(memory_, slab_bytes(stride), "pages and summaries"));
  const int64_t count = memory.bytes() / stride;
  auto slab = std::make_unique<Slab>();
  slab->shelf = &shelf;
  slab->memory = std::move(memory);
  slab->blocks.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    slab->blocks.push_back(
        {slab->memory.data() + i * stride, bytes, 0, Growth{}, false, this, slab.get(), nullptr});
  shelf.slabs.push_back(std::move(slab));
  Slab& added = *shelf.slabs.back();  // nothing fails from here on
  close_to_use(added.memory.data(), added.memory.bytes());
  for (auto block = added.blocks.rbegin(); block != added.blocks.rend(); ++block) {
    block->next_free = shelf.free;
    shelf.free = &*block;
  }
  free_bytes_ += count * bytes;
  return {};
}

BlockRef BlockPool::allocate(int64_t bytes, Growth growth) {
  HEDDLE_CHECK(bytes > 0, "a block of {} bytes", bytes);
  Shelf& shelf = shelves_[bytes];
  if (shelf.free == nullptr) {
    const Status added = add_slab(shelf, bytes);
    HEDDLE_CHECK(added.has_value(), "{}", added.error().message);
  }
  Block* block = std::exchange(shelf.free, shelf.free->next_free);
  free_bytes_ -= bytes;
  block->growth = growth;
  block->packed = false;
  block->references = 1;
  ++block->slab->used;
  open_to_use(block->data, bytes);
  if (poison_) std::memset(block->data, 0xFF, static_cast<size_t>(bytes));
  live_[static_cast<size_t>(growth)] += bytes;
  ++blocks_;
  return BlockRef(block);
}

BlockRef BlockPool::pack(const StatePart& part, BlockRef page) {
  if (part.codec == nullptr) return page;
  BlockRef packed = allocate(part.packed_bytes(), part.growth);
  if (!part.codec->pack(page.data(), part.page_bytes(), packed.data())) return page;
  packed.block_->packed = true;
  return packed;
}

void BlockPool::release(Block* block) {
  live_[static_cast<size_t>(block->growth)] -= block->bytes;
  --blocks_;
  --block->slab->used;
  close_to_use(block->data, block->bytes);
  block->next_free = std::exchange(block->slab->shelf->free, block);
  free_bytes_ += block->bytes;
}

void BlockPool::trim() {
  for (auto& [bytes, shelf] : shelves_) {
    for (Block** link = &shelf.free; *link != nullptr;) {
      Block* block = *link;
      if (block->slab->used > 0) {
        link = &block->next_free;
      } else {
        *link = block->next_free;
        free_bytes_ -= bytes;
      }
    }
    std::erase_if(shelf.slabs, [](const auto& slab) { return slab->used == 0; });
  }
}

}  // namespace heddle::state
