#include "backend/arena.h"

#include <algorithm>

#include "base/check.h"
#include "base/round_up.h"

namespace heddle::backend {
namespace {
constexpr int64_t kAlignment = 64;
}  // namespace

void* Arena::allocate_bytes(int64_t bytes) {
  HEDDLE_CHECK(bytes >= 0, "bytes {}", bytes);
  bytes = round_up(bytes, kAlignment);
  while (chunk_ < chunks_.size()) {
    const Mapping& chunk = chunks_[chunk_];
    if (offset_ + bytes <= chunk.bytes()) {
      void* result = chunk.data() + offset_;
      offset_ += bytes;
      return result;
    }
    ++chunk_;
    offset_ = 0;
  }
  const int64_t size = std::max(bytes, chunks_.empty() ? kHugePage : chunks_.back().bytes() * 2);
  Result<Mapping> mapping = Mapping::of(memory_, size, "scratch");
  if (!mapping && size > bytes)
    mapping = Mapping::of(memory_, std::max(bytes, kHugePage), "scratch");
  if (!mapping) throw OutOfMemory(std::move(mapping).error());
  chunks_.push_back(std::move(*mapping));
  chunk_ = chunks_.size() - 1;
  offset_ = bytes;
  return chunks_.back().data();
}

int64_t Arena::reserved_bytes() const {
  int64_t total = 0;
  for (const Mapping& chunk : chunks_) total += chunk.bytes();
  return total;
}

}  // namespace heddle::backend
