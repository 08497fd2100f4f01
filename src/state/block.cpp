#include "state/block.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/check.h"
#include "base/huge_pages.h"
#include "base/round_up.h"
#ifdef HEDDLE_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace heddle::state {

namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kLargestSlab = int64_t{16} << 20;

// AddressSanitizer reports who touches a block that is free, or the gap behind one in use.
#ifdef HEDDLE_ASAN
constexpr int64_t kGap = kAlignment;
void open_to_use(void* data, int64_t bytes) {
  __asan_unpoison_memory_region(data, static_cast<size_t>(bytes));
}
void close_to_use(void* data, int64_t bytes) {
  __asan_poison_memory_region(data, static_cast<size_t>(bytes));
}
#else
constexpr int64_t kGap = 0;
void open_to_use(void*, int64_t) {}
void close_to_use(void*, int64_t) {}
#endif

// Huge pages that blocks of so many bytes fill to 7/8 or more.
int64_t slab_bytes(int64_t stride) {
  int64_t bytes = kHugePage;
  while (bytes < kLargestSlab && bytes / stride * stride < bytes / 8 * 7) bytes *= 2;
  return std::max(bytes, round_up(stride, kHugePage));
}

}  // namespace

BlockPool::~BlockPool() {
  HEDDLE_CHECK(blocks_ == 0, "{} blocks ({} bytes) outlive their pool", blocks_, live_bytes());
  trim();
}

void BlockPool::add_slab(int64_t bytes) {
  const int64_t stride = round_up(bytes, kAlignment) + kGap;
  const int64_t size = slab_bytes(stride);
  std::byte* data = map_huge(size);
  HEDDLE_CHECK(data != nullptr, "no memory for blocks of {} bytes", bytes);
  close_to_use(data, size);
  auto* slab = new Slab{data, size, 0};
  for (int64_t i = size / stride - 1; i >= 0; --i)
    free_[bytes].push_back(new Block{data + i * stride, bytes, 0, Growth{}, false, this, slab});
  free_bytes_ += size / stride * bytes;
}

BlockRef BlockPool::allocate(int64_t bytes, Growth growth) {
  HEDDLE_CHECK(bytes > 0, "a block of {} bytes", bytes);
  auto& ready = free_[bytes];
  if (ready.empty()) add_slab(bytes);
  Block* block = ready.back();
  ready.pop_back();
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
  free_[block->bytes].push_back(block);
  free_bytes_ += block->bytes;
}

void BlockPool::trim() {
  std::set<Slab*> unused;
  for (auto& [bytes, blocks] : free_) {
    const auto first = std::partition(blocks.begin(), blocks.end(),
                                      [](const Block* block) { return block->slab->used > 0; });
    for (auto it = first; it != blocks.end(); ++it) {
      unused.insert((*it)->slab);
      free_bytes_ -= bytes;
      delete *it;
    }
    blocks.erase(first, blocks.end());
  }
  for (Slab* slab : unused) {
    open_to_use(slab->data, slab->bytes);
    unmap_huge(slab->data, slab->bytes);
    delete slab;
  }
}

}  // namespace heddle::state
