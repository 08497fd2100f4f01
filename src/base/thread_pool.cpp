#include "base/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"

namespace heddle {

// A generation counter starts a loop, a countdown ends it. Waiters spin briefly (the gap between
// two kernels of a decode step is microseconds), then sleep.
struct ThreadPool::Impl {
  static constexpr int kSpins = 2000;

  std::atomic<uint64_t> generation{0};
  std::atomic<int> pending{0};
  std::atomic<int> sleepers{0};
  bool stop = false;  // written before a generation step
  void (*fn)(void*, int) = nullptr;
  void* ctx = nullptr;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  void wait_for_generation(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (generation.load(std::memory_order_acquire) != seen) return;
      _mm_pause();
    }
    std::unique_lock lock(mutex);
    sleepers.fetch_add(1);
    wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
    sleepers.fetch_sub(1);
  }

  void start() {
    generation.fetch_add(1);
    if (sleepers.load() > 0) {
      std::lock_guard lock(mutex);
      wake.notify_all();
    }
  }

  void work(int thread) {
    uint64_t seen = 0;
    while (true) {
      wait_for_generation(seen);
      ++seen;
      if (stop) return;
      fn(ctx, thread);
      pending.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), impl_(std::make_unique<Impl>()) {
  HEDDLE_CHECK(threads >= 1, "threads {}", threads);
  for (int t = 1; t < threads; ++t)
    impl_->workers.emplace_back([impl = impl_.get(), t] { impl->work(t); });
}

ThreadPool::~ThreadPool() {
  impl_->stop = true;
  impl_->start();
  for (auto& worker : impl_->workers) worker.join();
}

void ThreadPool::run_raw(void (*fn)(void*, int), void* ctx) {
  if (threads_ > 1) {
    impl_->fn = fn;
    impl_->ctx = ctx;
    impl_->pending.store(threads_ - 1, std::memory_order_relaxed);
    impl_->start();
  }
  fn(ctx, 0);
  int spins = 0;
  while (impl_->pending.load(std::memory_order_acquire) != 0) {
    if (++spins < 20000) {
      _mm_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

int ThreadPool::available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {  // "QUOTA PERIOD" or "max PERIOD"
    long long quota = 0;
    long long period = 0;
    if (std::fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
      const int limit = static_cast<int>((quota + period - 1) / period);
      if (limit < cpus) cpus = limit;
    }
    std::fclose(file);
  }
  return cpus > 0 ? cpus : 1;
}

}  // namespace heddle
