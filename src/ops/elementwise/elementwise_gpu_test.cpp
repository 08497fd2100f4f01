// Norm, rope, activations and gather on a GPU: against the float64 specification within twice the
// error of the plain float32 loop; nothing outside the rows; a row has its bits in any batch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/dtype.h"
#include "base/rng.h"
#include "ops/elementwise/elementwise_cuda.h"
#include "ops/naive.h"
#include "test/support/gpu.h"

namespace heddle::ops {
namespace {

constexpr int64_t kWidths[] = {1, 2, 31, 64, 100, 255, 256, 257, 1000, 4096};

std::vector<float> random_values(int64_t count, uint64_t seed, float scale = 1) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = rng.normal() * scale;
  return values;
}

class ElementwiseGpu : public test::Gpu {
 protected:
  test::GpuArray<float> upload(const std::vector<float>& values) {
    return {device(), stream(), values};
  }
  template <class Fast, class Args>
  void run(Fast fast, const Args& args) {
    const Status status = fast(stream(), args);
    ASSERT_TRUE(status) << status.error().message;
  }
  static void expect_within_budget(const std::vector<float>& got, const std::vector<float>& naive,
                                   const std::vector<float>& exact, int64_t width) {
    for (const float x : got) ASSERT_FALSE(std::isnan(x)) << "width " << width;
    EXPECT_LE(relative_error(got, exact), error_budget(naive, exact)) << "width " << width;
  }

  ThreadPool pool_{1};
  backend::Arena scratch_;
  backend::Context ctx_{pool_, scratch_};
};

TEST_F(ElementwiseGpu, RmsNorm) {
  for (const int64_t width : kWidths) {
    for (const int64_t groups : {1, 3}) {
      const int64_t rows = 5, stride = width * groups + 3;
      const auto x = random_values(rows * stride, 1);
      const auto weight = random_values(width, 2);
      std::vector<float> exact(x.size()), naive(x.size()), got = test::poison(x.size());
      RmsNormArgs args{x.data(), stride,       rows,   width, weight.data(),
                       1e-5f,    exact.data(), stride, groups};
      ref::rms_norm(ctx_, args);
      args.y = naive.data();
      naive::rms_norm(ctx_, args);
      const auto dx = upload(x), dw = upload(weight), dy = upload(got);
      args.x = dx.data(), args.weight = dw.data(), args.y = dy.data();
      run(cuda::rms_norm, args);
      got = dy.read();
      for (size_t i = 0; i < got.size(); ++i) {
        if (static_cast<int64_t>(i) % stride < width * groups) continue;
        EXPECT_TRUE(std::isnan(got[i])) << "written between rows";
        got[i] = 0;
      }
      expect_within_budget(got, naive, exact, width);
      // The last row alone.
      const auto alone = upload(test::poison(x.size()));
      args.x += (rows - 1) * stride, args.rows = 1, args.y = alone.data();
      run(cuda::rms_norm, args);
      const auto row = alone.read();
      EXPECT_EQ(0, std::memcmp(row.data(), got.data() + (rows - 1) * stride,
                               static_cast<size_t>(width * groups) * 4));
    }
  }
}

TEST_F(ElementwiseGpu, AddRmsNormIsAddAndRmsNorm) {
  for (const int64_t width : kWidths) {
    const int64_t rows = 3;
    const auto x = random_values(rows * width, 3), delta = random_values(rows * width, 4);
    const auto first = upload(x), second = upload(x), dd = upload(delta);
    const auto y1 = upload(test::poison(x.size())), y2 = upload(test::poison(x.size()));
    run(cuda::add_rms_norm,
        cuda::AddRmsNormArgs{first.data(), dd.data(), rows, width, nullptr, 1e-6f, y1.data()});
    run(cuda::add, AddArgs{dd.data(), rows * width, second.data()});
    run(cuda::rms_norm,
        RmsNormArgs{second.data(), width, rows, width, nullptr, 1e-6f, y2.data(), width});
    EXPECT_EQ(first.read(), second.read());
    EXPECT_EQ(y1.read(), y2.read());
  }
}

TEST_F(ElementwiseGpu, Rope) {
  const std::vector<int32_t> positions = {0, 1, 63, 64, 4095, 40000, 300000, 2000000000};
  const auto tokens = static_cast<int64_t>(positions.size());
  const test::GpuArray<int32_t> dp(device(), stream(), positions);
  std::vector<RopeSpec> specs(4);
  specs[1].scaling = "linear", specs[1].factor = 8;
  specs[2].scaling = "llama3", specs[2].factor = 8, specs[2].original_context = 8192;
  specs[3].scaling = "yarn", specs[3].factor = 4, specs[3].original_context = 32768;
  for (RopeSpec& spec : specs) {
    for (const int64_t rotary : {2, 34, 64, 128, 256}) {
      spec.rotary = rotary;
      const auto rope = make_rope(spec);
      ASSERT_TRUE(rope) << rope.error().message;
      const int64_t width = rotary + 5, stride = 3 * width + 2;
      const auto x = random_values(tokens * stride, 9);
      auto exact = x, naive = x;
      RopeArgs args{exact.data(), stride, tokens, 3, width, positions.data(), &*rope};
      ref::rope(ctx_, args);
      args.x = naive.data();
      naive::rope(ctx_, args);
      const auto dx = upload(x);
      args.x = dx.data(), args.positions = dp.data();
      run(cuda::rope, args);
      expect_within_budget(dx.read(), naive, exact, rotary);
    }
  }
}

TEST_F(ElementwiseGpu, GatedAndSigmoidGate) {
  for (const int64_t width : kWidths) {
    const int64_t tokens = 3;
    const auto x = random_values(tokens * 2 * width, 4, 3);
    const auto dx = upload(x);
    const auto size = static_cast<size_t>(tokens * width);
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
      std::vector<float> exact(size), naive(size);
      ref::gated(ctx_, {x.data(), tokens, width, activation, exact.data()});
      naive::gated(ctx_, {x.data(), tokens, width, activation, naive.data()});
      const auto out = upload(test::poison(size));
      run(cuda::gated, GatedArgs{dx.data(), tokens, width, activation, out.data()});
      expect_within_budget(out.read(), naive, exact, width);
    }
    const auto y = random_values(tokens * (width + 1), 6);
    auto exact = y, naive = y;
    ref::sigmoid_gate(ctx_, {x.data(), 2 * width, tokens, width, exact.data(), width + 1});
    naive::sigmoid_gate(ctx_, {x.data(), 2 * width, tokens, width, naive.data(), width + 1});
    const auto dy = upload(y);
    run(cuda::sigmoid_gate,
        SigmoidGateArgs{dx.data(), 2 * width, tokens, width, dy.data(), width + 1});
    const auto got = dy.read();
    for (int64_t t = 0; t < tokens; ++t) {
      const auto guard = static_cast<size_t>(t * (width + 1) + width);
      EXPECT_EQ(got[guard], y[guard]);
    }
    expect_within_budget(got, naive, exact, width);
  }
}

TEST_F(ElementwiseGpu, AddHasTheBitsOfTheSpecification) {
  for (const int64_t n : {0, 1, 255, 257, 100000}) {
    const auto x = random_values(n, 7), start = random_values(n, 8);
    auto expected = start;
    ref::add(ctx_, {x.data(), n, expected.data(), 0.3f, 1.7f});
    const auto dx = upload(x), dy = upload(start);
    run(cuda::add, AddArgs{dx.data(), n, dy.data(), 0.3f, 1.7f});
    EXPECT_EQ(dy.read(), expected);
  }
}

TEST_F(ElementwiseGpu, Gather) {
  const int64_t width = 100, vocabulary = 1000;
  std::vector<uint16_t> table;
  for (const float x : random_values(vocabulary * width, 5)) table.push_back(f32_to_bf16(x));
  const std::vector<int32_t> ids = {999, 0, 500, 500};
  const test::GpuArray<uint16_t> dt(device(), stream(), table);
  const test::GpuArray<int32_t> di(device(), stream(), ids);
  const auto out = upload(test::poison(ids.size() * width));
  run(cuda::gather, cuda::GatherArgs{dt.data(), di.data(), 4, width, 0.5f, out.data()});
  const auto got = out.read();
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i], 0.5f * bf16_to_f32(table[static_cast<size_t>(ids[i / 100]) * 100 + i % 100]));
}

}  // namespace
}  // namespace heddle::ops
