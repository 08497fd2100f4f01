#include "backend/weight_memory.h"

#include <algorithm>

#include "backend/asan.h"
#include "base/round_up.h"

namespace heddle::backend {
namespace {

// Address space of a chunk. What is not used is not touched, and so takes no memory but the rest of
// the last huge page.
constexpr int64_t kChunk = int64_t{64} << 20;

}  // namespace

WeightMemory::~WeightMemory() {
  for (const Chunk& chunk : chunks_) open_to_use(chunk.mapping.data(), chunk.mapping.bytes());
}

Result<std::byte*> WeightMemory::allocate(int64_t bytes) {
  const int64_t wanted = bytes;
  bytes = round_up(std::max<int64_t>(bytes, 1), 64) + kGap;
  auto chunk = std::find_if(chunks_.begin(), chunks_.end(), [bytes](const Chunk& candidate) {
    return candidate.mapping.bytes() - candidate.used >= bytes;
  });
  if (chunk == chunks_.end()) {
    HEDDLE_TRY(Mapping mapping, Mapping::of(memory_, std::max(kChunk, bytes), "weights"));
    chunks_.push_back({std::move(mapping), 0});
    chunk = chunks_.end() - 1;
    close_to_use(chunk->mapping.data(), chunk->mapping.bytes());
  }
  std::byte* result = chunk->mapping.data() + chunk->used;
  open_to_use(result, wanted);
  chunk->used += bytes;
  used_ += bytes;
  return result;
}

Result<std::byte*> WeightMemory::copy(std::span<const std::byte> bytes) {
  HEDDLE_TRY(std::byte * data, allocate(std::ssize(bytes)));
  HEDDLE_TRY_STATUS(memory_.write(data, bytes));
  return data;
}

}  // namespace heddle::backend
