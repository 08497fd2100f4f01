#include "base/out_of_memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <memory>
#include <vector>

#include "base/memory_reserve.h"

namespace heddle {
namespace {

TEST(OutOfMemory, TellsWhatWasWantedOrWhatWasBeingDone) {
  EXPECT_EQ(memory_error(OutOfMemory({"7 bytes for a test"}), "a test ran").message,
            "7 bytes for a test");
  EXPECT_EQ(memory_error(std::bad_alloc(), "a test ran").message, "out of memory while a test ran");
}

TEST(OutOfMemory, BecomesAnError) {
  const auto failing = []() -> Result<int> { throw std::bad_alloc(); };
  const auto error = within_memory("a test ran", failing);
  ASSERT_FALSE(error);
  EXPECT_EQ(error.error().message, "out of memory while a test ran");
  EXPECT_EQ(within_memory("a test ran", []() -> Result<int> { return 3; }), 3);
}

// A destructor that needs memory would end the program if there was none left.
struct TakesMemoryToDie {
  ~TakesMemoryToDie() { std::make_unique<std::vector<char>>(size_t{256} << 10).reset(); }
};

#if !defined(HEDDLE_ASAN) && !defined(__SANITIZE_THREAD__)
[[noreturn]] void run_out_of_memory() {
  keep_memory_back();
  rlimit limit{};
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = size_t{256} << 20;
  setrlimit(RLIMIT_AS, &limit);
  for (int time = 0; time < 2; ++time) {
    std::vector<std::unique_ptr<char[]>> pieces;
    pieces.reserve(1 << 20);
    try {
      const TakesMemoryToDie object;
      while (true) pieces.push_back(std::make_unique<char[]>(64 << 10));
    } catch (const std::bad_alloc&) {
      pieces.clear();
      keep_memory_back();
    }
  }
  std::fprintf(stderr, "caught twice\n");
  std::_Exit(0);
}

TEST(OutOfMemory, LeavesEnoughToUnwind) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(run_out_of_memory(), testing::ExitedWithCode(0), "caught twice");
}
#endif

}  // namespace
}  // namespace heddle
