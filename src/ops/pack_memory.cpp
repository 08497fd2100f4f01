#include "ops/pack_memory.h"

#include <sys/mman.h>

#include <algorithm>

namespace heddle::ops {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
// Address space of a chunk. What is not used is not touched, and so takes no memory but the rest of
// the last huge page.
constexpr int64_t kChunk = int64_t{64} << 20;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

PackMemory::~PackMemory() {
  for (const Chunk& chunk : chunks_) ::munmap(chunk.data, static_cast<size_t>(chunk.size));
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
  // A mapping begins anywhere: one huge page more than needed, cut to begin and end at one.
  const int64_t size = std::max(kChunk, round_up(bytes, kHugePage));
  void* mapped = ::mmap(nullptr, static_cast<size_t>(size + kHugePage), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(mapped);
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin));
  const int64_t before = round_up(address, kHugePage) - address;
  if (before > 0) ::munmap(begin, static_cast<size_t>(before));
  if (before < kHugePage) ::munmap(begin + before + size, static_cast<size_t>(kHugePage - before));
  ::madvise(begin + before, static_cast<size_t>(size), MADV_HUGEPAGE);  // a wish
  chunks_.push_back({begin + before, size, bytes});
  used_ += bytes;
  return begin + before;
}

}  // namespace heddle::ops
