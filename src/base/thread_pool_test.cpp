#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
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

TEST(ThreadPool, KnowsItsCpus) { EXPECT_GE(ThreadPool::available_cpus(), 1); }

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

// A thread that sleeps does not hold up a short loop.
TEST(ThreadPool, ShortLoopsDoNotWaitForSleepingThreads) {
  ThreadPool pool(2);
  std::vector<double> waits;
  for (int i = 0; i < 21; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // past the spinning
    const auto start = std::chrono::steady_clock::now();
    pool.run([](int) {});
    waits.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(waits.begin(), waits.begin() + 10, waits.end());
  EXPECT_LT(waits[10], 1e-3);
}

}  // namespace
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

}  // namespace heddle
