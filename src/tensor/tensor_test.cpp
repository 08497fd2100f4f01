#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tensor/rows.h"
#include "tensor/vector.h"
#include "test/support/scarce_memory.h"

namespace heddle::tensor {
namespace {

TEST(Rows, KnowTheirTypeAndTheirGaps) {
  std::vector<float> values(12);
  const Rows rows(values.data(), 3, 4);
  EXPECT_EQ(rows.f32(), values.data());
  EXPECT_EQ(reinterpret_cast<float*>(rows.row(2)), values.data() + 8);
  EXPECT_EQ(rows.row_bytes(), 16);
  const ConstRows read = rows;
  EXPECT_EQ(read.f32(), values.data());
  EXPECT_EQ(read.rows, 3);
  EXPECT_EQ(read.width, 4);
  EXPECT_TRUE(rows.contiguous());
  Rows narrow = rows;
  narrow.dtype = DType::bf16;
  EXPECT_DEATH(narrow.f32(), "bf16");
}

TEST(Rows, PartsAndColumnsLieInThem) {
  std::vector<float> values(12);
  const Rows rows(values.data(), 3, 4);
  const Rows last = rows.part(1, 2);
  EXPECT_EQ(last.f32(), values.data() + 4);
  EXPECT_EQ(last.rows, 2);
  const Rows middle = last.columns(1, 2);
  EXPECT_EQ(middle.f32(), values.data() + 5);
  EXPECT_EQ(reinterpret_cast<float*>(middle.row(1)), values.data() + 9);
  EXPECT_EQ(middle.width, 2);
  EXPECT_EQ(middle.row_bytes(), 8);
  EXPECT_FALSE(middle.contiguous());
  EXPECT_TRUE(middle.part(0, 1).contiguous());
  EXPECT_DEATH(rows.part(1, 3), "rows 1 \\+ 3 of 3");
  EXPECT_DEATH(rows.columns(2, 3), "columns 2 \\+ 3 of 4");
}

TEST(Vector, CopiesIntoItsMemory) {
  backend::WeightMemory memory;
  const std::vector<float> values = {1, 2, 3};
  const auto first = Vector::of(values, memory);
  const auto second = Vector::of(values, memory);
  ASSERT_TRUE(first && second);
  for (const Vector& vector : {*first, *second}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(vector.data()) % 64, 0u);
    EXPECT_TRUE(std::equal(values.begin(), values.end(), vector.data(), vector.data() + 3));
  }
  EXPECT_NE(first->data(), second->data());
}

TEST(Vector, OfNothingIsEmptyAndOfNoMemoryAnError) {
  test::ScarceMemory scarce;
  scarce.fail_after(0);
  backend::WeightMemory memory(scarce);
  const auto none = Vector::of({}, memory);
  ASSERT_TRUE(none);
  EXPECT_TRUE(none->empty());
  EXPECT_EQ(none->data(), nullptr);
  const std::vector<float> values = {1};
  EXPECT_FALSE(Vector::of(values, memory));
}

}  // namespace
}  // namespace heddle::tensor
