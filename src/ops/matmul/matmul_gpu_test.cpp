// Products with bf16 weights on a GPU: within twice the error of a float32 loop over the same
// rounded operands and their rounding; equal bits for a row whatever the batch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/dtype.h"
#include "base/rng.h"
#include "ops/matmul/matmul_cuda.h"
#include "ops/naive.h"
#include "test/support/gpu.h"

namespace heddle::ops {
namespace {

using MatmulGpu = test::Gpu;

struct Problem {
  Problem(int64_t tokens_, int64_t rows_, int64_t cols_)
      : tokens(tokens_), rows(rows_), cols(cols_) {
    Rng rng(static_cast<uint64_t>(rows * cols));
    x.resize(static_cast<size_t>(tokens * cols));
    for (float& v : x) v = rng.normal();
    w.resize(static_cast<size_t>(rows * cols));
    for (uint16_t& v : w) v = f32_to_bf16(rng.normal());
  }
  // kRounded: of x rounded to bf16, in float32; else in float64.
  template <bool kRounded>
  std::vector<float> product(int64_t first, int64_t count) const {
    using Sum = std::conditional_t<kRounded, float, double>;
    std::vector<float> y;
    for (int64_t t = first; t < first + count; ++t)
      for (int64_t r = 0; r < rows; ++r) {
        Sum sum = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const float v = x[static_cast<size_t>(t * cols + k)];
          sum += static_cast<Sum>(kRounded ? bf16_to_f32(f32_to_bf16(v)) : v) *
                 bf16_to_f32(w[static_cast<size_t>(r * cols + k)]);
        }
        y.push_back(static_cast<float>(sum));
      }
    return y;
  }
  int64_t tokens, rows, cols;
  std::vector<float> x;
  std::vector<uint16_t> w;
};

// The last problem is one of large tiles when all tokens come at once.
TEST_F(MatmulGpu, MatchesTheSpecificationAndARowItsBitsInAnyBatch) {
  constexpr int64_t kTokens = 1100;
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {16, 32}, {48, 64}, {144, 320}, {128, 1024}, {272, 4096}, {2064, 64}}) {
    const Problem p(kTokens, rows, cols);
    const test::GpuArray<float> x(device(), stream(), p.x);
    const test::GpuArray<uint16_t> w(device(), stream(), p.w);
    const test::GpuArray<std::byte> workspace(
        device(), stream(), static_cast<size_t>(cuda::matmul_workspace_bytes(kTokens, cols)));
    const int64_t stride = rows + 3;
    const auto run = [&](int64_t first, int64_t tokens) {
      const test::GpuArray<float> y(device(), stream(),
                                    test::poison(static_cast<size_t>(tokens * stride)));
      cuda::MatmulBf16Args args{
          x.data() + first * cols, cols, tokens, w.data(), rows, cols, y.data(), stride};
      args.workspace = workspace.data();
      const Status status = cuda::matmul_bf16(stream(), args);
      EXPECT_TRUE(status) << status.error().message;
      std::vector<float> dense;
      const auto all = y.read();
      for (size_t i = 0; i < all.size(); ++i) {
        const bool inside = static_cast<int64_t>(i) % stride < rows;
        EXPECT_NE(inside, std::isnan(all[i])) << "at " << i << " of " << tokens << " tokens";
        if (inside) dense.push_back(all[i]);
      }
      return dense;
    };
    const auto all = run(0, kTokens);
    const std::vector<float> some(all.begin(), all.begin() + 20 * rows);
    const auto exact = p.product<false>(0, 20);
    EXPECT_LE(relative_error(some, exact), error_budget(p.product<true>(0, 20), exact))
        << rows << " x " << cols;
    for (const int64_t tokens : {1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 300}) {
      const auto few = run(11, tokens);
      EXPECT_EQ(0, std::memcmp(few.data(), all.data() + 11 * rows, few.size() * 4))
          << rows << " x " << cols << ", " << tokens << " tokens";
    }
  }
}

TEST_F(MatmulGpu, AccumulatesOnWhatIsThere) {
  for (const int64_t tokens : {3, 40, 200}) {
    const Problem p(tokens, 32, 96);
    const test::GpuArray<float> x(device(), stream(), p.x);
    const test::GpuArray<uint16_t> w(device(), stream(), p.w);
    const auto bytes = static_cast<size_t>(cuda::matmul_workspace_bytes(tokens, 96));
    const test::GpuArray<std::byte> workspace(device(), stream(), bytes);
    const auto size = static_cast<size_t>(tokens * 32);
    const test::GpuArray<float> y(device(), stream(), test::poison(size));
    cuda::MatmulBf16Args args{x.data(), 96, tokens, w.data(), 32, 96, y.data(), 32};
    args.workspace = workspace.data();
    ASSERT_TRUE(cuda::matmul_bf16(stream(), args));
    const auto once = y.read();
    args.accumulate = true;
    ASSERT_TRUE(cuda::matmul_bf16(stream(), args));
    const auto twice = y.read();
    for (size_t i = 0; i < size; ++i) EXPECT_EQ(twice[i], 2 * once[i]);
  }
}

}  // namespace
}  // namespace heddle::ops
