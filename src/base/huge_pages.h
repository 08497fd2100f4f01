#pragma once
// Memory for what kernels stream through: the system is asked to back it with huge pages, so that
// few address translations are missed and the hardware's prefetching meets few page ends. Where it
// does not, all works the same.
#include <cstddef>
#include <cstdint>

namespace heddle {

constexpr int64_t kHugePage = int64_t{2} << 20;

// `bytes` rounded up to whole huge pages, zeroed, beginning at one; what is not touched takes no
// memory but the rest of a huge page. nullptr when the system has no memory.
std::byte* map_huge(int64_t bytes);
// Gives back what map_huge(bytes) returned.
void unmap_huge(std::byte* data, int64_t bytes);

}  // namespace heddle
