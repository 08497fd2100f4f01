#include "backend/machine_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace heddle::backend {
namespace {

class MemoryTest : public ::testing::Test {
 protected:
  void put(const std::string& path, const std::string& text) {
    const auto file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void SetUp() override {
    root_ = std::filesystem::path(::testing::TempDir()) /
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
    put("proc/meminfo", "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable:    6000 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  MachineMemory memory() const { return machine_memory(root_.string()); }
  std::filesystem::path root_;
};

TEST_F(MemoryTest, TheMachineAlone) {
  EXPECT_EQ(memory().total, 8000 * 1024);
  EXPECT_EQ(memory().available, 6000 * 1024);
  EXPECT_FALSE(memory().limited);
}

TEST_F(MemoryTest, TheSmallestLimitAboveAGroupCounts) {
  put("proc/self/cgroup", "0::/a/b\n");
  put("sys/fs/cgroup/a/memory.max", "2048000\n");
  put("sys/fs/cgroup/a/memory.current", "1500000\n");
  put("sys/fs/cgroup/a/memory.stat", "anon 9\ninactive_file 500000\n");
  put("sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_EQ(memory().total, 2048000);
  EXPECT_EQ(memory().available, 1048000);  // what the page cache holds can be taken
  EXPECT_TRUE(memory().limited);
}

TEST_F(MemoryTest, TheFirstVersionOfGroups) {
  put("proc/self/cgroup", "5:cpu,memory:/docker/x\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n");  // the mount is the group's own
  put("sys/fs/cgroup/memory/memory.usage_in_bytes", "400000\n");
  put("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 100000\n");
  EXPECT_EQ(memory().available, 700000);
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_FALSE(memory().limited);
}

}  // namespace
}  // namespace heddle::backend
