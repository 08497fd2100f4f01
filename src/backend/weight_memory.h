#pragma once
// Memory for the weights of one model, side by side, so that decode streams through few address
// translations and loading faults few pages in. Freed as a whole.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/memory.h"

namespace heddle::backend {

class WeightMemory {
 public:
  // `memory` must outlive it.
  explicit WeightMemory(Memory& memory = host_memory()) : memory_(memory) {}
  ~WeightMemory();
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;

  // 64-byte aligned, zeroed. Lives as long as this object.
  Result<std::byte*> allocate(int64_t bytes);
  // The same with a copy of `bytes`, which the host holds.
  Result<std::byte*> copy(std::span<const std::byte> bytes);
  int64_t used_bytes() const { return used_; }

 private:
  struct Chunk {
    Mapping mapping;
    int64_t used = 0;
  };
  Memory& memory_;
  std::vector<Chunk> chunks_;
  int64_t used_ = 0;
};

}  // namespace heddle::backend
