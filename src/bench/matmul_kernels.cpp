// Products with stored weights, and repacking them.
#include <fmt/format.h>

#include <cstring>

#include "backend/weight_memory.h"
#include "base/check.h"
#include "bench/kernel_suite.h"
#include "ops/naive.h"
#include "ops/work.h"

namespace heddle::bench {
namespace {

constexpr DType kFormats[] = {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1,
                              DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k,
                              DType::f16,  DType::bf16, DType::f32};

struct Shape {
  int64_t cols, rows;
};

// Random codes with small scales: speed does not depend on the values, but NaN and subnormal scales
// would.
std::vector<std::byte> random_weights(DType dtype, int64_t rows, int64_t cols) {
  const DTypeInfo& info = dtype_info(dtype);
  std::vector<std::byte> data(static_cast<size_t>(rows * dtype_bytes(dtype, cols)));
  Rng rng(1);
  if (!info.quantized) {
    const std::vector<float> values = random_values(rows * cols, 1, 0.05f);
    ops::quantize(dtype, values.data(), rows * cols, data.data());
    return data;
  }
  for (size_t i = 0; i + 8 <= data.size(); i += 8) {
    const uint64_t bits = rng.next();
    std::memcpy(&data[i], &bits, 8);
  }
  const uint16_t scale = f32_to_f16(info.block_elements == 256 ? 2e-4f : 5e-3f);
  for (size_t b = 0; b < data.size(); b += static_cast<size_t>(info.block_bytes)) {
    std::memcpy(&data[b + (dtype == DType::q6_k ? 208 : 0)], &scale, 2);
    const bool second = dtype == DType::q4_1 || dtype == DType::q5_1 || dtype == DType::q4_k ||
                        dtype == DType::q5_k;
    if (second) std::memcpy(&data[b + 2], &scale, 2);
  }
  return data;
}

ops::PackedMatrix packed(ThreadPool& pool, backend::WeightMemory& memory,
                         const std::vector<std::byte>& data, DType dtype, const Shape& shape) {
  const ops::MatrixSource source{data.data(), dtype, shape.rows, shape.cols, {}};
  auto result = ops::pack(pool, {&source, 1}, {.memory = &memory});
  HEDDLE_CHECK(result.has_value(), "{}", result.error().message);
  return std::move(*result);
}

// 33 rows, at most 9 tokens: the reference computes in float64.
double accuracy(backend::Context& ctx, DType dtype, int64_t cols, int64_t tokens) {
  const Shape small{cols, 33};
  tokens = std::min<int64_t>(tokens, 9);
  backend::WeightMemory memory;
  const ops::PackedMatrix w =
      packed(ctx.pool, memory, random_weights(dtype, small.rows, cols), dtype, small);
  const std::vector<float> x = random_values(tokens * cols, 2);
  const auto run = [&](auto kernel) {
    std::vector<float> y(static_cast<size_t>(tokens * small.rows));
    kernel(ctx, ops::MatmulArgs{.x = x.data(),
                                .x_stride = cols,
                                .tokens = tokens,
                                .weights = &w,
                                .y = y.data(),
                                .y_stride = small.rows});
    return y;
  };
  return error_over_budget(run(ops::cpu::matmul), run(ops::naive::matmul), run(ops::ref::matmul));
}

void run_shape(KernelSuite& suite, DType dtype, const Shape& shape,
               std::initializer_list<int64_t> token_counts) {
  const std::string name = fmt::format("{} {}x{}", dtype_info(dtype).name, shape.cols, shape.rows);
  if (!suite.wants("matmul", name, {})) return;
  const std::vector<std::byte> data = random_weights(dtype, shape.rows, shape.cols);
  backend::WeightMemory memory;
  std::vector<ops::PackedMatrix> copies;
  const int64_t count = copies_beyond_caches(static_cast<double>(data.size()));
  for (int64_t i = 0; i < count; ++i)
    copies.push_back(packed(suite.context().pool, memory, data, dtype, shape));
  for (const int64_t tokens : token_counts) {
    const std::vector<float> x = random_values(tokens * shape.cols, 1);
    std::vector<float> y(static_cast<size_t>(tokens * shape.rows));
    KernelCase c;
    c.kernel = "matmul";
    c.shape = name;
    c.tokens = tokens;
    c.work = ops::product_work(copies[0], tokens);
    c.accuracy = [&](backend::Context& ctx) { return accuracy(ctx, dtype, shape.cols, tokens); };
    c.call = [&](backend::Context& ctx, int64_t i) {
      ops::matmul(ctx, {x.data(), tokens, shape.cols}, copies[static_cast<size_t>(i % count)],
                  {y.data(), tokens, shape.rows});
    };
    suite.measure(c);
  }
}

}  // namespace

void matmul_kernels(KernelSuite& suite) {
  for (const DType dtype : kFormats) run_shape(suite, dtype, {1024, 9216}, {1, 4, 16, 512});
  // Down and output matrices, and a width that is no multiple of 256.
  run_shape(suite, DType::q4_0, {4608, 1024}, {1, 512});
  run_shape(suite, DType::q4_0, {576, 3072}, {1, 512});
  run_shape(suite, DType::q6_k, {1024, 65536}, {1});
  run_shape(suite, DType::q8_0, {576, 49152}, {1});
}

// Bytes: the file's once read, the layout's once written.
void pack_kernels(KernelSuite& suite) {
  const Shape shape{1024, 9216};
  for (const DType dtype : kFormats) {
    const std::string name =
        fmt::format("{} {}x{}", dtype_info(dtype).name, shape.cols, shape.rows);
    if (!suite.wants("pack", name, {})) continue;
    const std::vector<std::byte> data = random_weights(dtype, shape.rows, shape.cols);
    KernelCase c;
    c.kernel = "pack";
    c.shape = name;
    c.tokens = shape.rows;
    c.work.bytes = 2 * static_cast<double>(data.size());
    c.call = [&](backend::Context& ctx, int64_t) {
      backend::WeightMemory memory;
      packed(ctx.pool, memory, data, dtype, shape);
    };
    suite.measure(c);
  }
}

}  // namespace heddle::bench
