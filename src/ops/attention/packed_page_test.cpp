// Packed pages: every bit comes back, the same form in every target, refusal where there is none.
#include "ops/attention/packed_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backend/target.h"
#include "base/dtype.h"
#include "base/rng.h"

namespace heddle::ops {
namespace {

using Strips = std::vector<uint16_t>;

Strips normal_strips(int64_t units, uint64_t seed) {
  Rng rng(seed);
  Strips strips(static_cast<size_t>(units * kUnitElements));
  for (uint16_t& x : strips) x = f32_to_bf16(rng.normal());
  return strips;
}

int64_t bytes_of(const Strips& strips) { return std::ssize(strips) * 2; }

// The packed form; empty where there is none.
std::vector<std::byte> pack(const Strips& strips) {
  std::vector<std::byte> packed(
      static_cast<size_t>(bytes_of(strips) / kUnitBytes * kPackedUnitBytes));
  const auto* page = reinterpret_cast<const std::byte*>(strips.data());
  if (!pack_page(page, bytes_of(strips), packed.data())) packed.clear();
  return packed;
}

Strips unpack(const std::vector<std::byte>& packed, size_t elements) {
  Strips strips(elements, 0xffff);
  unpack_page(packed.data(), bytes_of(strips), reinterpret_cast<std::byte*>(strips.data()));
  return strips;
}

class PackedPage : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    before_ = std::string(backend::active_target());
    ASSERT_TRUE(backend::use_target(GetParam()).has_value());
  }
  void TearDown() override { ASSERT_TRUE(backend::use_target(before_).has_value()); }

 private:
  std::string before_;
};

TEST_P(PackedPage, EveryBitComesBack) {
  int packed_pages = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const Strips strips = normal_strips(2, seed);
    const auto packed = pack(strips);
    if (packed.empty()) continue;
    ++packed_pages;
    ASSERT_EQ(unpack(packed, strips.size()), strips) << "seed " << seed;
  }
  EXPECT_GE(packed_pages, 90);
}

TEST_P(PackedPage, ExponentsOfAnyKindComeBack) {
  // Strip s: elements of one sign, mantissa and exponent after the other, around exponent 2s.
  Strips strips(static_cast<size_t>(kUnitElements));
  for (int64_t s = 0; s < kUnitStrips; ++s) {
    for (int64_t n = 0; n < 64; ++n) {
      const auto spread = static_cast<uint16_t>(std::min<int64_t>(127, 2 * s + n % 7));
      strips[static_cast<size_t>(s * 64 + n)] =
          static_cast<uint16_t>((n * 37 + s) % 2 << 15 | spread << 8 | (n * 53 + s * 7) % 256);
    }
  }
  const auto packed = pack(strips);  // subnormal numbers, infinities and NaN among them
  ASSERT_FALSE(packed.empty());
  EXPECT_EQ(unpack(packed, strips.size()), strips);
}

TEST_P(PackedPage, OneMoreExponentFitsTwoDoNot) {
  Strips strips = normal_strips(1, 3);
  for (uint16_t& x : strips) x = static_cast<uint16_t>((x & 0x80ff) | 0x3f00);
  for (int64_t s = 0; s < kUnitStrips; s += 5) {  // zeros of both signs
    strips[static_cast<size_t>(s * 64 + s)] = 0;
    strips[static_cast<size_t>(s * 64 + 63 - s)] = 0x8000;
  }
  const auto packed = pack(strips);
  ASSERT_FALSE(packed.empty());
  EXPECT_EQ(unpack(packed, strips.size()), strips);
  strips[5 * 64 + 20] = 0x3801;  // seven steps below the others
  EXPECT_TRUE(pack(strips).empty());
  strips[5 * 64 + 20] = 0x3901;  // six
  EXPECT_FALSE(pack(strips).empty());
}

TEST_P(PackedPage, TheFormIsTheSameInEveryTarget) {
  const Strips strips = normal_strips(3, 8);
  const auto packed = pack(strips);
  ASSERT_FALSE(packed.empty());
  ASSERT_TRUE(backend::use_target("scalar").has_value());
  EXPECT_EQ(pack(strips), packed);
  EXPECT_EQ(unpack(packed, strips.size()), strips);
}

std::vector<std::string> targets() {
  std::vector<std::string> all;
  for (const std::string_view target : backend::supported_targets()) all.emplace_back(target);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Ops, PackedPage, ::testing::ValuesIn(targets()),
                         [](const auto& param_info) { return param_info.param; });

TEST(PackedPages, PlainPagesShowBothForms) {
  const Strips strips = normal_strips(1, 8);
  std::vector<std::byte> packed = pack(strips);
  ASSERT_FALSE(packed.empty());
  Strips raw = strips;
  packed.insert(packed.begin(), static_cast<size_t>(state::PackedHead::bytes(1)), std::byte{0});
  state::PackedHead(packed.data()).set(0, state::PackedHead::bytes(1), true);
  std::byte* const pages[] = {packed.data(), reinterpret_cast<std::byte*>(raw.data())};
  const uint8_t flags[] = {1, 0};
  const state::GroupView group{.pages = pages, .packed = flags};
  const state::PartPlace place;
  PlainPages plain({group, place}, kUnitBytes);
  EXPECT_EQ(plain[1], pages[1]);
  EXPECT_TRUE(std::equal(plain[0], plain[0] + kUnitBytes, pages[1]));
}

TEST(PackedPages, OnlyHeadsOfWholeUnitsHaveACodec) {
  const bool fast = backend::active_target() == "avx512";
  EXPECT_EQ(page_codec(128) != nullptr, fast);
  EXPECT_EQ(page_codec(96), nullptr);
}

}  // namespace
}  // namespace heddle::ops
