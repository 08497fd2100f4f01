#include "backend/arena.h"

#include <algorithm>

#include "base/check.h"
#include "base/huge_pages.h"
#include "base/round_up.h"

namespace heddle::backend {
namespace {
constexpr int64_t kAlignment = 64;
}  // namespace

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) unmap_huge(chunk.data, chunk.size);
}

void* Arena::allocate_bytes(int64_t bytes) {
  HEDDLE_CHECK(bytes >= 0, "bytes {}", bytes);
  bytes = round_up(bytes, kAlignment);
  while (chunk_ < chunks_.size()) {
    Chunk& chunk = chunks_[chunk_];
    if (offset_ + bytes <= chunk.size) {
      void* result = chunk.data + offset_;
      offset_ += bytes;
      return result;
    }
    ++chunk_;
    offset_ = 0;
  }
  int64_t size = std::max(bytes, chunks_.empty() ? kHugePage : chunks_.back().size * 2);
  size = round_up(size, kHugePage);
  std::byte* data = map_huge(size);
  HEDDLE_CHECK(data != nullptr, "out of memory for {} bytes of scratch", size);
  chunks_.push_back({data, size});
  chunk_ = chunks_.size() - 1;
  offset_ = bytes;
  return data;
}

int64_t Arena::reserved_bytes() const {
  int64_t total = 0;
  for (const Chunk& chunk : chunks_) total += chunk.size;
  return total;
}

}  // namespace heddle::backend
