#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <ctime>
#include <new>
#include <thread>
#include <vector>

namespace heddle {
namespace {

TEST(ThreadPool, EveryThreadRunsOnceALoop) {
  for (const int threads : {1, 2, 3, 8}) {  // 8: more than the CPUs of a small machine
    ThreadPool pool(threads);
    std::vector<int> runs(static_cast<size_t>(threads), 0);
    for (int loop = 0; loop < 300; ++loop) pool.run([&](int thread) { ++runs[thread]; });
    for (const int count : runs) EXPECT_EQ(count, 300);
  }
}

TEST(ThreadPool, RangesCoverEverythingOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 15, 16, 17, 100}) {
      for (const int64_t grain : {1, 4, 16}) {
        std::vector<std::atomic<int>> hits(static_cast<size_t>(n));
        pool.parallel_for(n, grain, [&](int64_t begin, int64_t end, int thread) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_LT(thread, threads);
          for (int64_t i = begin; i < end; ++i) hits[i].fetch_add(1);
        });
        for (const auto& hit : hits) EXPECT_EQ(hit.load(), 1);
      }
    }
  }
}

// Workers that have gone to sleep wake again, and a slow worker is waited for.
TEST(ThreadPool, SleepsAndWakes) {
  ThreadPool pool(2);
  for (int loop = 0; loop < 5; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    int late = 0;
    pool.run([&](int thread) {
      if (thread == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      late = 1;
    });
    EXPECT_EQ(late, 1);
  }
}

TEST(ThreadPool, KnowsItsCpus) {
  cpu_set_t all, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  EXPECT_LE(ThreadPool::available_cpus(), CPU_COUNT(&all));
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(ThreadPool::available_cpus(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
}

// The caller takes the parts of threads that are late, and each part is done by one of them.
TEST(ThreadPool, EveryPartRunsOnceWhoeverIsLate) {
  constexpr int kThreads = 4, kLoops = 5000;
  ThreadPool pool(kThreads);
  std::vector<int> runs(kThreads);
  uint32_t noise = 1;
  for (int loop = 0; loop < kLoops; ++loop) {
    noise = noise * 1664525u + 1013904223u;
    const int late = static_cast<int>(noise >> 30);
    const int work = static_cast<int>(noise >> 20 & 1023);
    std::atomic<int> done{0};
    pool.run([&](int thread) {
      ++runs[static_cast<size_t>(thread)];
      volatile int sink = 0;
      if (thread == late)
        for (int i = 0; i < work; ++i) sink = i;
      ++done;
    });
    ASSERT_EQ(done, kThreads);
  }
  for (const int count : runs) EXPECT_EQ(count, kLoops);
}

#if !defined( \
    __SANITIZE_THREAD__)  // under which a signal waits for a call that the pool never makes
std::atomic<bool> held{false}, released{false};

// Holds the thread that gets the signal, as a busy machine does; for a minute at most.
void hold(int) {
  held = true;
  for (int i = 0; i < 60000 && !released; ++i) {
    const timespec millisecond{0, 1000000};
    nanosleep(&millisecond, nullptr);
  }
  held = false;
}

TEST(ThreadPool, ALoopDoesNotWaitForAThreadThatGetsNoCpu) {
  ThreadPool pool(2);
  released = false;
  const pthread_t caller = pthread_self();
  std::atomic<pthread_t> worker{caller};
  while (worker == caller)  // until the thread itself is the first at its part
    pool.run([&](int thread) {
      if (thread == 1) worker = pthread_self();
      if (thread == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  std::signal(SIGUSR1, hold);
  ASSERT_EQ(pthread_kill(worker, SIGUSR1), 0);
  while (!held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::vector<pthread_t> ran(2);
  for (int loop = 0; loop < 20; ++loop) {
    pool.run([&](int thread) { ran[static_cast<size_t>(thread)] = pthread_self(); });
    EXPECT_EQ(ran[1], caller);
  }
  EXPECT_TRUE(held) << "the loops were over before the thread was";
  released = true;
  while (held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::signal(SIGUSR1, SIG_DFL);
}
#endif

TEST(ThreadPool, MemoryThatRunsOutInOnePartComesBackToTheCaller) {
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (int failing = 0; failing < threads; ++failing) {
      std::atomic<int> ended{0};
      const auto run = [&](int fails) {
        pool.run([&](int thread) {
          if (thread == fails) throw std::bad_alloc();
          ++ended;
        });
      };
      EXPECT_THROW(run(failing), std::bad_alloc);
      EXPECT_EQ(ended, threads - 1) << "the other parts end first";
      ended = 0;
      run(-1);
      EXPECT_EQ(ended, threads) << "and the next loop is in order";
    }
  }
}

// A row's bits may not depend on who computes it.
TEST(ThreadPool, DenormalsAreZeroOnEveryThread) {
  const volatile float small = 1e-30f;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::vector<float> run(static_cast<size_t>(threads), 1), loop(64, 1);
    pool.run([&](int thread) { run[static_cast<size_t>(thread)] = small * small * 1e25f; });
    pool.parallel_for(64, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) loop[static_cast<size_t>(i)] = small * 1e-10f;
    });
    for (const float x : run) EXPECT_EQ(x, 0.0f);
    for (const float x : loop) EXPECT_EQ(x, 0.0f);
  }
  EXPECT_NE(small * 1e-10f, 0.0f) << "the mode ends with the loop";
}

}  // namespace
}  // namespace heddle
