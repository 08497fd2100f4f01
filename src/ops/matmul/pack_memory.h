#pragma once
// Memory for the packed weights of one model: huge pages where the system grants them, matrices
// side by side, so that decode streams through few address translations and loading faults few
// pages in. Freed as a whole.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace heddle::ops {

class PackMemory {
 public:
  PackMemory() = default;
  ~PackMemory();
  PackMemory(const PackMemory&) = delete;
  PackMemory& operator=(const PackMemory&) = delete;

  // 64-byte aligned, zeroed; nullptr when the system has no memory. Lives as long as this object.
  std::byte* allocate(int64_t bytes);
  int64_t used_bytes() const { return used_; }

 private:
  struct Chunk {
    std::byte* data = nullptr;
    int64_t size = 0;
    int64_t used = 0;
  };
  std::vector<Chunk> chunks_;
  int64_t used_ = 0;
};

}  // namespace heddle::ops
