#pragma once
// The host's memory, less of it: refuses beyond a limit, or the k-th mapping from now on.
#include <cstdint>
#include <limits>

#include "backend/memory.h"

namespace heddle::test {

class ScarceMemory : public backend::Memory {
 public:
  // Mappings may hold so many bytes together.
  void limit(int64_t bytes) { limit_ = bytes; }
  // The next `mappings` succeed, all after them fail.
  void fail_after(int64_t mappings) { left_ = mappings; }
  void relent() { *this = ScarceMemory(mapped_); }
  int64_t mapped_bytes() const { return mapped_; }

  ScarceMemory() = default;
  Result<std::byte*> map(int64_t bytes, std::string_view what) override {
    const int64_t size = (bytes + backend::kHugePage - 1) / backend::kHugePage * backend::kHugePage;
    if (left_ == 0 || size > limit_ - mapped_)
      return fail("out of memory: the test refused {} bytes for {}", size, what);
    HEDDLE_TRY(std::byte * data, backend::host_memory().map(bytes, what));
    mapped_ += size;
    --left_;
    return data;
  }
  void unmap(std::byte* data, int64_t bytes) override {
    backend::host_memory().unmap(data, bytes);
    mapped_ -= (bytes + backend::kHugePage - 1) / backend::kHugePage * backend::kHugePage;
  }
  Status write(std::byte* to, std::span<const std::byte> from) override {
    return backend::host_memory().write(to, from);
  }
  bool host() const override { return true; }

 private:
  explicit ScarceMemory(int64_t mapped) : mapped_(mapped) {}
  int64_t mapped_ = 0;
  int64_t limit_ = std::numeric_limits<int64_t>::max();
  int64_t left_ = std::numeric_limits<int64_t>::max();
};

}  // namespace heddle::test
