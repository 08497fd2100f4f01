#include "state/block.h"

#include <algorithm>
#include <cstring>

#include "backend/asan.h"
#include "base/check.h"
#include "base/out_of_memory.h"
#include "base/round_up.h"

namespace heddle::state {

namespace {

using backend::close_to_use;
using backend::open_to_use;

constexpr int64_t kAlignment = 64;
constexpr int64_t kLargestSlab = int64_t{16} << 20;

// The fewest huge pages that blocks of so many bytes fill to 7/8, or the best of those up to the
// largest slab.
int64_t slab_bytes(int64_t stride) {
  const auto filled = [&](int64_t bytes) {
    return static_cast<double>(bytes / stride * stride) / static_cast<double>(bytes);
  };
  int64_t best = round_up(stride, backend::kHugePage);
  for (int64_t bytes = best + backend::kHugePage; bytes <= kLargestSlab && filled(best) < 0.875;
       bytes += backend::kHugePage) {
    if (filled(bytes) > filled(best)) best = bytes;
  }
  return best;
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
  if (bytes > limit_ - live_bytes())
    throw OutOfMemory(
        {fmt::format("out of memory: a page or summary of {} bytes beside {} is over "
                     "the limit of {}",
                     bytes, live_bytes(), limit_)});
  Shelf& shelf = shelves_[bytes];
  if (shelf.free == nullptr) {
    Status added = add_slab(shelf, bytes);
    if (!added) {  // blocks of other sizes may lie unused
      trim();
      added = add_slab(shelf, bytes);
    }
    if (!added) throw OutOfMemory(std::move(added).error());
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
