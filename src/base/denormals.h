#pragma once
// Numbers below 2^-126 count as zero while kernels run. What decays, an old state or the weight of
// a far token, ends in denormal numbers, and arithmetic with one of them takes a hundred times as
// long. Every thread of a computation has to be in this mode: a row's bits may not depend on which
// thread computes it.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace heddle {

// Sets the mode of this thread, and at the end of its life the mode that was before.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : before_(_mm_getcsr()) {
    if ((before_ & kFlush) != kFlush) _mm_setcsr(before_ | kFlush);
  }
  ~FlushDenormals() {
    if ((before_ & kFlush) != kFlush) _mm_setcsr(before_);
  }

 private:
  static constexpr unsigned kFlush = 0x8040;  // results to zero, operands as zero
  unsigned before_;
#else
  FlushDenormals() {}
#endif

 public:
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace heddle
