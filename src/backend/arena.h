#pragma once
// Scratch memory of one step: a bump allocator whose blocks are kept between steps. Owned by one
// thread.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace heddle::backend {

class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // `count` values of T, 64-byte aligned, uninitialised, valid until the enclosing ArenaScope ends.
  template <class T>
  T* allocate(int64_t count) {
    return static_cast<T*>(allocate_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  void* allocate_bytes(int64_t bytes);
  int64_t reserved_bytes() const;

 private:
  friend class ArenaScope;
  struct Chunk {
    std::byte* data = nullptr;
    int64_t size = 0;
  };
  std::vector<Chunk> chunks_;
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
