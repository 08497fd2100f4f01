#pragma once
// A fixed set of threads that share loops. Work is split statically by index, so which thread
// computes what never depends on timing; kernels must also not depend on the number of threads
// (design, numerics). Loops run with denormal numbers flushed to zero, on every thread.
#include <cstdint>
#include <memory>
#include <type_traits>

#include "base/denormals.h"

namespace heddle {

class ThreadPool {
 public:
  // threads >= 1, the calling thread included. Throws OutOfMemory where the system refuses one.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls fn(thread) once for every 0 <= thread < threads(), each on its thread or, where that one
  // has not begun in time, on the calling one, and returns when all are done.
  // Not reentrant; one caller at a time. An exception of one part (memory ran out) comes back to
  // the caller when all parts have ended.
  template <class F>
  void run(F&& fn) {
    using Fn = std::remove_reference_t<F>;
    const FlushDenormals flush;
    run_raw([](void* ctx, int thread) { (*static_cast<Fn*>(ctx))(thread); },
            const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // Splits [0, n) into contiguous ranges that are multiples of `grain` (but the last) and calls
  // fn(begin, end, thread).
  template <class F>
  void parallel_for(int64_t n, int64_t grain, F&& fn) {
    if (n <= 0) return;
    const int64_t blocks = (n + grain - 1) / grain;
    if (threads_ == 1 || blocks == 1) {
      const FlushDenormals flush;
      fn(int64_t{0}, n, 0);
      return;
    }
    run([&](int thread) {
      const int64_t begin = blocks * thread / threads_ * grain;
      const int64_t end = blocks * (thread + 1) / threads_ * grain;
      if (begin < end) fn(begin, end < n ? end : n, thread);
    });
  }

  // CPUs that this process may run on (affinity mask and cgroup quota).
  static int available_cpus();

 private:
  void run_raw(void (*fn)(void*, int), void* ctx);
  struct Impl;
  int threads_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace heddle
