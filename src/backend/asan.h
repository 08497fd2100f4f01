#pragma once
// AddressSanitizer reports who touches a piece of a mapping that is not in use, or the gap behind
// one that is. Without it nothing is done, and there are no gaps.
#include <cstddef>
#include <cstdint>
#ifdef HEDDLE_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace heddle::backend {

#ifdef HEDDLE_ASAN
constexpr int64_t kGap = 64;
inline void open_to_use(void* data, int64_t bytes) {
  __asan_unpoison_memory_region(data, static_cast<size_t>(bytes));
}
inline void close_to_use(void* data, int64_t bytes) {
  __asan_poison_memory_region(data, static_cast<size_t>(bytes));
}
#else
constexpr int64_t kGap = 0;
inline void open_to_use(void*, int64_t) {}
inline void close_to_use(void*, int64_t) {}
#endif

}  // namespace heddle::backend
