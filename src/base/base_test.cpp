#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/dtype.h"
#include "base/rng.h"

namespace heddle {
namespace {

TEST(DType, HalfRoundTripsEveryFiniteValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = f16_to_f32(half);
    if (std::isnan(value)) continue;
    EXPECT_EQ(f32_to_f16(value), half) << bits;
  }
}

TEST(DType, HalfRoundsToNearestEven) {
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), f32_to_f16(1.0f));          // tie to even
  EXPECT_EQ(f32_to_f16(1.0f + 3 * 0x1p-11f), f32_to_f16(1.0f) + 2);  // tie to even, upwards
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0);       // tie at half the least subnormal
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);  // overflow to infinity
}

TEST(DType, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(bf16_to_f32(f32_to_bf16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(bf16_to_f32(f32_to_bf16(1.0f + 3 * 0x1p-8f)), 1.0f + 4 * 0x1p-8f);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::nanf("")))));
}

TEST(DType, NamesRoundTrip) {
  EXPECT_EQ(dtype_from_name("q6_k"), DType::q6_k);
  EXPECT_EQ(dtype_info(DType::q6_k).block_bytes, 210);
  EXPECT_FALSE(dtype_from_name("q3_x").has_value());
}

TEST(Rng, IsAPureFunctionOfSeedAndCounter) {
  Rng a(7);
  a.next();
  EXPECT_EQ(a.next(), random_u64(7, 1));
  EXPECT_NE(random_u64(7, 1), random_u64(8, 1));
}

}  // namespace
}  // namespace heddle
