#include "base/huge_pages.h"

#include <sys/mman.h>

#include "base/round_up.h"

namespace heddle {

std::byte* map_huge(int64_t bytes) {
  // A mapping begins anywhere: one huge page more than needed, cut to begin and end at one.
  const int64_t size = round_up(bytes, kHugePage);
  void* mapped = ::mmap(nullptr, static_cast<size_t>(size + kHugePage), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(mapped);
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin));
  const int64_t before = round_up(address, kHugePage) - address;
  if (before > 0) ::munmap(begin, static_cast<size_t>(before));
  if (before < kHugePage) ::munmap(begin + before + size, static_cast<size_t>(kHugePage - before));
  ::madvise(begin + before, static_cast<size_t>(size), MADV_HUGEPAGE);  // a wish
  return begin + before;
}

void unmap_huge(std::byte* data, int64_t bytes) {
  ::munmap(data, static_cast<size_t>(round_up(bytes, kHugePage)));
}

}  // namespace heddle
