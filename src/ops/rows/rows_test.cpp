#include "ops/rows/rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace heddle::ops {
namespace {

constexpr float kGuard = 12345.0f;

std::vector<float> random_values(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = rng.normal();
  return values;
}

struct Bench {
  Bench(int threads, backend::KernelSet kernels) : pool(threads), ctx{pool, scratch, kernels} {}
  ThreadPool pool;
  backend::Arena scratch;
  backend::Context ctx;
};

// Rows of output with a guard behind them.
struct Output {
  Output(int64_t count, int64_t width)
      : values(static_cast<size_t>(count * width + 8), kGuard), rows(values.data(), count, width) {}
  std::vector<float> inner() const { return {values.begin(), values.end() - 8}; }
  bool guarded() const {
    return std::all_of(values.end() - 8, values.end(), [](float v) { return v == kGuard; });
  }
  std::vector<float> values;
  tensor::Rows rows;
};

template <class F>
void on_every_kernel_set(F&& test) {
  for (const auto kernels : {backend::KernelSet::reference, backend::KernelSet::cpu})
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} {}", kernels == backend::KernelSet::cpu, threads));
      Bench bench(threads, kernels);
      test(bench.ctx);
    }
}

TEST(Embed, IsTheRowOfTheTableTimesTheScale) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::q8_0}) {
    for (const float scale : {1.0f, 9.797958f}) {
      const int64_t width = 96, rows = 40;
      const auto values = random_values(rows * width, 1);
      std::vector<std::byte> stored(static_cast<size_t>(dtype_bytes(dtype, rows * width)));
      quantize(dtype, values.data(), rows * width, stored.data());
      const MatrixSource source{.data = stored.data(), .dtype = dtype, .rows = rows, .cols = width};
      ThreadPool pool(1);
      backend::WeightMemory memory;
      const auto table = pack(pool, {&source, 1}, {.memory = &memory});
      ASSERT_TRUE(table) << table.error().message;
      std::vector<int32_t> tokens = {0, 39, 7, 7};
      for (int32_t t = 0; t < 40; ++t) tokens.push_back(t);
      std::vector<float> expected;
      for (const int32_t token : tokens) {
        std::vector<float> row(static_cast<size_t>(width));
        dequantize(dtype, stored.data() + dtype_bytes(dtype, token * width), width, row.data());
        for (const float v : row) expected.push_back(v * scale);
      }
      on_every_kernel_set([&](backend::Context& ctx) {
        Output y(std::ssize(tokens), width);
        embed(ctx, {.table = &*table, .tokens = tokens, .scale = scale, .y = y.rows});
        EXPECT_EQ(y.inner(), expected);
        EXPECT_TRUE(y.guarded());
      });
    }
  }
}

TEST(Gather, TakesRowsInAnyOrderAndOfAnyType) {
  for (const int64_t width : {1, 17, 600}) {
    auto values = random_values(100 * width, 2);
    const std::vector<int32_t> rows = {99, 0, 5, 5};
    on_every_kernel_set([&](backend::Context& ctx) {
      Output y(4, width);
      gather(ctx, tensor::Rows(values.data(), 100, width), rows, y.rows);
      EXPECT_TRUE(y.guarded());
      for (size_t i = 0; i < rows.size(); ++i)
        for (int64_t c = 0; c < width; ++c)
          ASSERT_EQ(y.inner()[i * static_cast<size_t>(width) + static_cast<size_t>(c)],
                    values[static_cast<size_t>(rows[i] * width + c)]);
      gather(ctx, tensor::Rows(values.data(), 100, width), {}, tensor::Rows(nullptr, 0, width));
    });
  }
  std::vector<uint16_t> narrow = {1, 2, 3, 4, 5, 6}, taken(3);
  tensor::Rows x, y;
  x.data = reinterpret_cast<std::byte*>(narrow.data()),
  y.data = reinterpret_cast<std::byte*>(taken.data());
  x.dtype = y.dtype = DType::bf16;
  x.rows = 2, y.rows = 1, x.width = y.width = x.stride = y.stride = 3;
  const std::vector<int32_t> second = {1};
  on_every_kernel_set([&](backend::Context& ctx) {
    taken.assign(3, 0);
    gather(ctx, x, second, y);
    EXPECT_EQ(taken, (std::vector<uint16_t>{4, 5, 6}));
  });
}

TEST(AddBias, ReachesEveryRowOnce) {
  backend::WeightMemory memory;
  for (const int64_t width : {1, 17, 600}) {
    const auto bias = random_values(width, 3);
    const auto vector = tensor::Vector::of(bias, memory);
    ASSERT_TRUE(vector);
    const auto before = random_values(130 * width, 4);
    on_every_kernel_set([&](backend::Context& ctx) {
      Output y(130, width);
      std::copy(before.begin(), before.end(), y.values.begin());
      add_bias(ctx, {}, y.rows);
      EXPECT_EQ(y.inner(), before) << "no bias";
      add_bias(ctx, *vector, y.rows);
      EXPECT_TRUE(y.guarded());
      for (size_t i = 0; i < before.size(); ++i)
        ASSERT_EQ(y.values[i], before[i] + bias[i % static_cast<size_t>(width)]);
    });
  }
}

}  // namespace
}  // namespace heddle::ops
