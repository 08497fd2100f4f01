#include "ops/matmul/pack_memory.h"

#include <algorithm>

#include "base/huge_pages.h"
#include "base/round_up.h"

namespace heddle::ops {
namespace {

// Address space of a chunk. What is not used is not touched, and so takes no memory but the rest of
// the last huge page.
constexpr int64_t kChunk = int64_t{64} << 20;

}  // namespace

PackMemory::~PackMemory() {
  for (const Chunk& chunk : chunks_) unmap_huge(chunk.data, chunk.size);
}

std::byte* PackMemory::allocate(int64_t bytes) {
  bytes = round_up(std::max<int64_t>(bytes, 1), 64);
  for (Chunk& chunk : chunks_) {
    if (chunk.size - chunk.used < bytes) continue;
    std::byte* result = chunk.data + chunk.used;
    chunk.used += bytes;
    used_ += bytes;
    return result;
  }
  const int64_t size = std::max(kChunk, round_up(bytes, kHugePage));
  std::byte* data = map_huge(size);
  if (data == nullptr) return nullptr;
  chunks_.push_back({data, size, bytes});
  used_ += bytes;
  return data;
}

}  // namespace heddle::ops
