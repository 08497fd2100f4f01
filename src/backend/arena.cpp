#include "backend/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.h"

namespace heddle::backend {
namespace {
constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;  // kernels walk rows that lie pages apart
}  // namespace

void Arena::Free::operator()(std::byte* data) const { std::free(data); }

void* Arena::allocate_bytes(int64_t bytes) {
  HEDDLE_CHECK(bytes >= 0, "bytes {}", bytes);
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (chunk_ < chunks_.size()) {
    Chunk& chunk = chunks_[chunk_];
    if (offset_ + bytes <= chunk.size) {
      void* result = chunk.data.get() + offset_;
      offset_ += bytes;
      return result;
    }
    ++chunk_;
    offset_ = 0;
  }
  int64_t size = std::max(bytes, chunks_.empty() ? kHugePage : chunks_.back().size * 2);
  size = (size + kHugePage - 1) / kHugePage * kHugePage;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kHugePage, static_cast<size_t>(size)));
  HEDDLE_CHECK(data != nullptr, "out of memory for {} bytes of scratch", size);
  ::madvise(data, static_cast<size_t>(size),
            MADV_HUGEPAGE);  // a wish: without huge pages all works the same
  chunks_.push_back({std::unique_ptr<std::byte[], Free>(data), size});
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
