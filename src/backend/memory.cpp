#include "backend/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/round_up.h"

namespace heddle::backend {
namespace {

class HostMemory final : public Memory {
 public:
  Result<std::byte*> map(int64_t bytes, std::string_view what) override {
    HEDDLE_CHECK(bytes > 0, "a mapping of {} bytes", bytes);
    // A mapping begins anywhere: one huge page more than needed, cut to begin and end at one.
    const int64_t size = round_up(bytes, kHugePage);
    void* mapped = ::mmap(nullptr, static_cast<size_t>(size + kHugePage), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
      return fail("out of memory: the system refused {} bytes for {} ({})", size, what,
                  std::strerror(errno));
    auto* begin = static_cast<std::byte*>(mapped);
    const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin));
    const int64_t before = round_up(address, kHugePage) - address;
    if (before > 0) ::munmap(begin, static_cast<size_t>(before));
    if (before < kHugePage)
      ::munmap(begin + before + size, static_cast<size_t>(kHugePage - before));
    ::madvise(begin + before, static_cast<size_t>(size), MADV_HUGEPAGE);  // a wish
    return begin + before;
  }

  void unmap(std::byte* data, int64_t bytes) override {
    ::munmap(data, static_cast<size_t>(round_up(bytes, kHugePage)));
  }

  Status write(std::byte* to, std::span<const std::byte> from) override {
    std::memcpy(to, from.data(), from.size());
    return {};
  }

  bool host() const override { return true; }
};

}  // namespace

Memory& host_memory() {
  static HostMemory memory;
  return memory;
}

Result<Mapping> Mapping::of(Memory& memory, int64_t bytes, std::string_view what) {
  Mapping mapping;
  HEDDLE_TRY(mapping.data_, memory.map(bytes, what));
  mapping.memory_ = &memory;
  mapping.bytes_ = round_up(bytes, kHugePage);
  return mapping;
}

void Mapping::reset() {
  if (data_ != nullptr) memory_->unmap(data_, bytes_);
  data_ = nullptr;
}

}  // namespace heddle::backend
