#include "backend/memory.h"

#include <gtest/gtest.h>

#include "backend/arena.h"
#include "backend/weight_memory.h"
#include "test/support/scarce_memory.h"

namespace heddle::backend {
namespace {

TEST(Memory, MappingsBeginAtHugePagesAndAreZero) {
  const auto mapping = Mapping::of(host_memory(), kHugePage + 1, "a test");
  ASSERT_TRUE(mapping) << mapping.error().message;
  EXPECT_EQ(mapping->bytes(), 2 * kHugePage);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(mapping->data()) % kHugePage, 0u);
  EXPECT_EQ(mapping->data()[0], std::byte{0});
  EXPECT_EQ(mapping->data()[2 * kHugePage - 1], std::byte{0});
}

TEST(Memory, WhatTheSystemRefusesIsAnError) {
  const auto mapping = Mapping::of(host_memory(), int64_t{1} << 60, "a test");
  ASSERT_FALSE(mapping);
  EXPECT_NE(mapping.error().message.find("1152921504606846976 bytes for a test"), std::string::npos)
      << mapping.error().message;
}

TEST(Memory, AllGoesBackToWhereItCameFrom) {
  test::ScarceMemory memory;
  {
    Arena arena(memory);
    WeightMemory weights(memory);
    arena.allocate<float>(10);
    arena.allocate_bytes(5 * kHugePage);
    ASSERT_TRUE(weights.allocate(100));
    EXPECT_EQ(memory.mapped_bytes(), 6 * kHugePage + (int64_t{64} << 20));
  }
  EXPECT_EQ(memory.mapped_bytes(), 0);
}

TEST(Arena, RefusedMemoryIsThrownAndTheArenaServesOn) {
  test::ScarceMemory memory;
  memory.limit(4 * kHugePage);
  Arena arena(memory);
  std::byte* first = nullptr;
  {
    const ArenaScope scope(arena);
    first = arena.allocate<std::byte>(kHugePage);
    arena.allocate<std::byte>(kHugePage);
    try {
      arena.allocate<std::byte>(3 * kHugePage);
      FAIL() << "more than the limit";
    } catch (const OutOfMemory& error) {
      EXPECT_NE(std::string(error.what()).find("for scratch"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(arena.allocate<std::byte>(kHugePage), first);
}

// A chunk twice as large as the last is a wish; what is asked for is enough.
TEST(Arena, TakesWhatIsLeft) {
  test::ScarceMemory memory;
  memory.limit(2 * kHugePage);
  Arena arena(memory);
  arena.allocate<std::byte>(kHugePage);
  arena.allocate<std::byte>(100);
  EXPECT_EQ(arena.reserved_bytes(), 2 * kHugePage);
}

TEST(WeightMemory, RefusedMemoryIsAnError) {
  test::ScarceMemory memory;
  memory.limit(int64_t{64} << 20);
  WeightMemory weights(memory);
  ASSERT_TRUE(weights.allocate(int64_t{60} << 20));
  const auto refused = weights.allocate(int64_t{5} << 20);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("for weights"), std::string::npos);
  EXPECT_TRUE(weights.allocate(int64_t{4} << 20));
}

}  // namespace
}  // namespace heddle::backend
