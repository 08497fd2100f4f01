#include "backend/profile.h"

#include <gtest/gtest.h>

#include <thread>

namespace heddle::backend {
namespace {

void wait_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

TEST(Profile, PartsInsideCountOnce) {
  ThreadPool pool(1);
  Arena scratch;
  Profile profile;
  const Context ctx{pool, scratch, KernelSet::cpu, &profile};
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 2; ++i) {
    const ProfileScope outer(ctx, "outer");
    wait_ms(4);
    for (int n = 0; n < 3; ++n) {
      const ProfileScope inner(ctx, "inner", [] { return Work{.bytes = 5, .int8_ops = 7}; });
      wait_ms(2);
    }
  }
  const double total =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ASSERT_EQ(profile.parts().size(), 2u);
  const Profile::Part& inner = profile.parts()[0];
  const Profile::Part& outer = profile.parts()[1];
  EXPECT_STREQ(inner.name, "inner");
  EXPECT_EQ(inner.calls, 6);
  EXPECT_EQ(inner.work.bytes, 30);
  EXPECT_EQ(inner.work.int8_ops, 42);
  EXPECT_EQ(outer.calls, 2);
  EXPECT_GE(inner.seconds, 0.012);
  EXPECT_GE(outer.seconds, 0.008);
  EXPECT_LE(profile.seconds(), total) << "what is inside counts once";
}

TEST(Profile, CountingWorkTakesTimeOfItsOwnPart) {
  ThreadPool pool(1);
  Arena scratch;
  Profile profile;
  const Context ctx{pool, scratch, KernelSet::cpu, &profile};
  {
    const ProfileScope outer(ctx, "outer");
    const ProfileScope inner(ctx, "inner", [] {
      wait_ms(5);
      return Work{.bytes = 1};
    });
  }
  ASSERT_EQ(profile.parts().size(), 2u);
  EXPECT_STREQ(profile.parts()[0].name, "inner");
  EXPECT_GE(profile.parts()[0].seconds, 0.005);
}

TEST(Profile, WithoutOneWorkIsNotCounted) {
  ThreadPool pool(1);
  Arena scratch;
  const Context ctx{pool, scratch};
  bool asked = false;
  {
    const ProfileScope scope(ctx, "part", [&] {
      asked = true;
      return Work{};
    });
  }
  EXPECT_FALSE(asked);
}

}  // namespace
}  // namespace heddle::backend
