#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/check.h"
#include "base/out_of_memory.h"

namespace heddle {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Waits until `done(value)` holds. Spins first, since the gap between two kernels of a step is
// microseconds and a sleep costs tens of them; then sleeps, so that an idle engine costs nothing.
template <class Done>
void wait_until(const std::atomic<uint32_t>& value, std::chrono::microseconds spin, Done done) {
  uint32_t seen = value.load(std::memory_order_acquire);
  if (done(seen)) return;
  if (spin.count() > 0) {
    const auto start = std::chrono::steady_clock::now();
    std::chrono::steady_clock::duration waited{};
    do {
      for (int i = 0; i < 64; ++i) {
        relax();
        seen = value.load(std::memory_order_acquire);
        if (done(seen)) return;
      }
      waited = std::chrono::steady_clock::now() - start;
      // On a busy machine the thread waited for may be queued behind this one on the same CPU.
      if (waited > spin / 50) std::this_thread::yield();
    } while (waited < spin);
  }
  while (!done(seen)) {
    value.wait(seen, std::memory_order_acquire);
    seen = value.load(std::memory_order_acquire);
  }
}

}  // namespace

// A generation counter starts a loop, a countdown ends it; each on a cache line of its own. The
// part of a thread belongs to whoever claims it first: the thread, or the caller when it is done
// with its own. On a busy machine a thread may not get a CPU for milliseconds, and there are
// hundreds of loops in a step: the caller then works alone instead of waiting. What is computed
// does not depend on who computes it.
struct ThreadPool::Impl {
  struct alignas(64) Claim {
    std::atomic<uint32_t> generation{0};  // of the last loop whose part is taken
  };
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<uint32_t> pending{0};
  alignas(64) std::atomic<bool> stop{false};
  // Written before a generation step, read by those who claimed a part of it.
  void (*fn)(void*, int) = nullptr;
  void* ctx = nullptr;
  std::chrono::microseconds spin{0};
  std::vector<Claim> claims;  // by thread; the first is the caller's own and not used
  std::vector<std::thread> workers;
  std::atomic<bool> failed{false};
  std::exception_ptr failure;  // of the part that failed first

  uint32_t start() {
    const uint32_t now = generation.fetch_add(1, std::memory_order_release) + 1;
    generation.notify_all();
    return now;
  }

  void call(int thread) noexcept {
    try {
      fn(ctx, thread);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }

  // Runs the part of `thread` in loop `now`, unless somebody has taken it. A thread that comes late
  // finds the claim of its loop taken, and whoever holds one keeps the loop from ending.
  void run_part(uint32_t now, int thread) {
    uint32_t expected = now - 1;
    if (!claims[static_cast<size_t>(thread)].generation.compare_exchange_strong(
            expected, now, std::memory_order_acq_rel))
      return;
    call(thread);
    if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
  }

  void end() {
    stop.store(true, std::memory_order_relaxed);
    start();
    for (auto& worker : workers) worker.join();
  }

  void work(int thread) {
    const FlushDenormals flush;
    for (uint32_t seen = 0;;) {
      wait_until(generation, spin, [seen](uint32_t value) { return value != seen; });
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      run_part(seen, thread);
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), impl_(std::make_unique<Impl>()) {
  HEDDLE_CHECK(threads >= 1, "threads {}", threads);
  // With more threads than CPUs a spinning thread keeps the one it waits for from running.
  impl_->spin = std::chrono::microseconds(threads <= available_cpus() ? 100 : 0);
  impl_->claims = std::vector<Impl::Claim>(static_cast<size_t>(threads));
  impl_->workers.reserve(static_cast<size_t>(threads));
  try {
    for (int t = 1; t < threads; ++t)
      impl_->workers.push_back(start_thread("kernels", [impl = impl_.get(), t] { impl->work(t); }));
  } catch (...) {
    impl_->end();
    throw;
  }
}

ThreadPool::~ThreadPool() { impl_->end(); }

void ThreadPool::run_raw(void (*fn)(void*, int), void* ctx) {
  if (threads_ == 1) return fn(ctx, 0);
  impl_->fn = fn;
  impl_->ctx = ctx;
  impl_->pending.store(static_cast<uint32_t>(threads_ - 1), std::memory_order_relaxed);
  const uint32_t now = impl_->start();
  impl_->call(0);
  for (int t = 1; t < threads_; ++t) impl_->run_part(now, t);
  wait_until(impl_->pending, impl_->spin, [](uint32_t left) { return left == 0; });
  if (!impl_->failed.load(std::memory_order_relaxed)) return;
  impl_->failed.store(false, std::memory_order_relaxed);
  std::rethrow_exception(std::exchange(impl_->failure, nullptr));
}

namespace {

// CPUs that one cgroup grants, rounded up; 0: no limit. Version 2 has "QUOTA PERIOD" or
// "max PERIOD" in cpu.max, version 1 the two numbers in files of their own.
int cgroup_limit(const std::string& folder) {
  const auto numbers = [&](const char* name, int count, long long* out) {
    FILE* file = std::fopen((folder + "/" + name).c_str(), "re");
    if (!file) return false;
    int read = 0;
    while (read < count && std::fscanf(file, "%lld", out + read) == 1) ++read;
    std::fclose(file);
    return read == count;
  };
  long long limit[2] = {0, 0};  // quota, period
  if (!numbers("cpu.max", 2, limit) &&
      (!numbers("cpu.cfs_quota_us", 1, limit) || !numbers("cpu.cfs_period_us", 1, limit + 1)))
    return 0;
  if (limit[0] <= 0 || limit[1] <= 0) return 0;
  return static_cast<int>(std::min((limit[0] + limit[1] - 1) / limit[1], 1LL << 20));
}

}  // namespace

int ThreadPool::available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  const auto apply = [&](const std::string& folder) {
    const int limit = cgroup_limit(folder);
    if (limit > 0) cpus = std::min(cpus, limit);
  };
  // The process's own group and every group above it; lines are "ID:CONTROLLERS:PATH".
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && controllers.find("cpu") == std::string::npos) continue;
    const std::string root = controllers.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    std::string path = line.substr(second + 1);
    while (!path.empty() && path != "/") {
      apply(root + path);
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
    apply(root);
  }
  return std::max(cpus, 1);
}

}  // namespace heddle
