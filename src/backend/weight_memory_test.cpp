#include "backend/weight_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/asan.h"

namespace heddle::backend {
namespace {

TEST(WeightMemory, PiecesAreAlignedApartAndZero) {
  WeightMemory memory;
  const int64_t sizes[] = {1, 63, 64, 65, 4096, int64_t{70} << 20, 100, int64_t{3} << 20};
  std::vector<std::pair<std::byte*, int64_t>> pieces;
  int64_t asked = 0;
  for (const int64_t size : sizes) {
    const auto piece = memory.allocate(size);
    ASSERT_TRUE(piece) << piece.error().message;
    std::byte* data = *piece;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    EXPECT_EQ(data[0], std::byte{0});
    EXPECT_EQ(data[size - 1], std::byte{0});
    std::memset(data, 1 + static_cast<int>(pieces.size()), static_cast<size_t>(size));
    pieces.emplace_back(data, size);
    asked += size;
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto [data, size] = pieces[i];
    EXPECT_TRUE(std::all_of(data, data + size,
                            [i](std::byte b) { return b == static_cast<std::byte>(1 + i); }))
        << "piece " << i;
  }
  EXPECT_GE(memory.used_bytes(), asked);
  EXPECT_LT(memory.used_bytes(), asked + (64 + kGap) * static_cast<int64_t>(std::size(sizes)));
}

}  // namespace
}  // namespace heddle::backend
