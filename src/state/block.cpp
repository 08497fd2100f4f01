#include "state/block.h"

#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace heddle::state {

namespace {
constexpr int64_t kAlignment = 64;
}  // namespace

BlockPool::~BlockPool() {
  HEDDLE_CHECK(blocks_ == 0, "{} blocks ({} bytes) outlive their pool", blocks_, live_bytes());
  trim();
}

BlockRef BlockPool::allocate(int64_t bytes, Growth growth) {
  HEDDLE_CHECK(bytes > 0, "a block of {} bytes", bytes);
  Block* block = nullptr;
  auto& recycled = free_[bytes];
  if (!recycled.empty()) {
    block = recycled.back();
    recycled.pop_back();
    free_bytes_ -= bytes;
    block->growth = growth;
    block->references = 1;
  } else {
    const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    auto* data = static_cast<std::byte*>(
        std::aligned_alloc(static_cast<size_t>(kAlignment), static_cast<size_t>(rounded)));
    HEDDLE_CHECK(data != nullptr, "no memory for a block of {} bytes", bytes);
    block = new Block{data, bytes, 1, growth, this};
  }
  if (poison_) std::memset(block->data, 0xFF, static_cast<size_t>(bytes));
  live_[static_cast<size_t>(growth)] += bytes;
  ++blocks_;
  return BlockRef(block);
}

void BlockPool::release(Block* block) {
  live_[static_cast<size_t>(block->growth)] -= block->bytes;
  --blocks_;
  free_[block->bytes].push_back(block);
  free_bytes_ += block->bytes;
}

void BlockPool::trim() {
  for (auto& [bytes, blocks] : free_) {
    for (Block* block : blocks) {
      std::free(block->data);
      delete block;
    }
  }
  free_.clear();
  free_bytes_ = 0;
}

}  // namespace heddle::state
