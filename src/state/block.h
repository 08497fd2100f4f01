#pragma once
// Reference-counted memory blocks: pages and summaries. A block with more than one reference is
// immutable. Blocks belong to the engine's thread (no atomics); freed blocks are recycled by size.
// Their memory comes in slabs of huge pages: at a depth of some thousand tokens decode reads little
// else. Giving a block back takes no memory, so references may go whenever memory is short.
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/memory.h"
#include "state/state_part.h"

namespace heddle::state {

class BlockPool;

struct Slab;

struct Block {
  std::byte* data;
  int64_t bytes;
  int64_t references;
  Growth growth;
  bool packed;  // pages in their shorter form
  BlockPool* pool;
  Slab* slab;
  Block* next_free;  // of its size
};

// A counted reference; copying shares, the last one returns the block to its pool.
class BlockRef {
 public:
  BlockRef() = default;
  ~BlockRef() { reset(); }
  BlockRef(const BlockRef& other) : block_(other.block_) {
    if (block_ != nullptr) ++block_->references;
  }
  BlockRef(BlockRef&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  BlockRef& operator=(BlockRef other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  void reset();
  explicit operator bool() const { return block_ != nullptr; }
  std::byte* data() const { return block_ == nullptr ? nullptr : block_->data; }
  int64_t bytes() const { return block_ == nullptr ? 0 : block_->bytes; }
  bool packed() const { return block_ != nullptr && block_->packed; }
  bool shared() const { return block_ != nullptr && block_->references > 1; }
  const Block* get() const { return block_; }
  void set_packed() { block_->packed = true; }

 private:
  friend class BlockPool;
  explicit BlockRef(Block* block) : block_(block) {}
  Block* block_ = nullptr;
};

class BlockPool {
 public:
  // `memory` must outlive it.
  explicit BlockPool(backend::Memory& memory = backend::host_memory());
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // 64-byte aligned, uninitialised. Blocks must not outlive the pool. Throws OutOfMemory where
  // there is none, or over the limit.
  BlockRef allocate(int64_t bytes, Growth growth);
  int64_t live_bytes(Growth growth) const { return live_[static_cast<size_t>(growth)]; }
  int64_t live_bytes() const { return live_[0] + live_[1] + live_[2]; }
  int64_t live_blocks() const { return blocks_; }
  int64_t free_bytes() const { return free_bytes_; }  // of blocks that are ready to be used
  // Gives memory that no block in use shares back to the system.
  void trim();
  // Blocks in use may hold so much together; at first as much as there is.
  void set_limit(int64_t bytes) { limit_ = bytes; }
  // Fills every allocated block with 0xFF (NaN in every float format), so that a test sees a record
  // that was read before it was written.
  void set_poison(bool poison) { poison_ = poison; }

 private:
  friend class BlockRef;
  friend struct Slab;
  // Blocks of one size.
  struct Shelf {
    Block* free = nullptr;  // the one that was given back last
    std::vector<std::unique_ptr<Slab>> slabs;
  };
  void release(Block* block);
  Status add_slab(Shelf& shelf, int64_t bytes);
  backend::Memory& memory_;
  std::unordered_map<int64_t, Shelf> shelves_;  // by size
  std::array<int64_t, kGrowthClasses> live_{};
  int64_t blocks_ = 0;
  int64_t free_bytes_ = 0;
  int64_t limit_ = std::numeric_limits<int64_t>::max();
  bool poison_ = false;
};

inline void BlockRef::reset() {
  if (block_ != nullptr && --block_->references == 0) block_->pool->release(block_);
  block_ = nullptr;
}

}  // namespace heddle::state
