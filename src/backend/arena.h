#pragma once
// Scratch memory of one step: a bump allocator whose chunks are kept between steps. Owned by one
// thread.
//
// Growing may fail in the depth of a mixer: it throws OutOfMemory, and whoever runs the step gives
// it up. Nothing of it was committed.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/memory.h"
#include "base/out_of_memory.h"

namespace heddle::backend {

class Arena {
 public:
  // `memory` must outlive it.
  explicit Arena(Memory& memory = host_memory()) : memory_(memory) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // `count` values of T, 64-byte aligned, uninitialised, valid until the enclosing ArenaScope ends.
  // Throws OutOfMemory.
  template <class T>
  T* allocate(int64_t count) {
    return static_cast<T*>(allocate_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  void* allocate_bytes(int64_t bytes);
  int64_t reserved_bytes() const;

 private:
  friend class ArenaScope;
  Memory& memory_;
  std::vector<Mapping> chunks_;
  size_t chunk_ = 0;    // chunk in use
  int64_t offset_ = 0;  // first free byte in it
};

// Everything allocated while the scope lives is released when it ends.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), chunk_(arena.chunk_), offset_(arena.offset_) {}
  ~ArenaScope() {
    arena_.chunk_ = chunk_;
    arena_.offset_ = offset_;
  }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  size_t chunk_;
  int64_t offset_;
};

}  // namespace heddle::backend
