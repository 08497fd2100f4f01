// Norm, activation and rope: fast against the float64 specification, within twice the error of the
// plain float32 loop; every odd width; nothing written outside the rows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

#include "backend/target.h"
#include "base/rng.h"
#include "ops/naive.h"

namespace heddle::ops {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kWidths[] = {1, 2, 5, 8, 15, 16, 17, 31, 33, 64, 100, 576, 1000};

struct Bench {
  explicit Bench(int threads = 2) : pool(threads), ctx{pool, scratch} {}
  ThreadPool pool;
  backend::Arena scratch;
  backend::Context ctx;
};

std::vector<float> random_values(int64_t count, uint64_t seed, float scale = 1) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = rng.normal() * scale;
  return values;
}

// The rule of the project: at most twice the error of the naive loop in the same precision, which
// is at least one rounding of the output.
void expect_within_budget(const std::vector<float>& got, const std::vector<float>& naive,
                          const std::vector<float>& expected, const std::string& what) {
  EXPECT_LE(relative_error(got, expected), error_budget(naive, expected)) << what;
}

// Runs `test` under every SIMD target of this CPU.
void on_every_target(const std::function<void()>& test) {
  const std::string before(backend::active_target());
  for (const std::string_view target : backend::supported_targets()) {
    SCOPED_TRACE(target);
    ASSERT_TRUE(backend::use_target(target).has_value());
    test();
  }
  ASSERT_TRUE(backend::use_target(before).has_value());
}

TEST(RmsNorm, MatchesTheSpecificationAtEveryWidth) {
  on_every_target([] {
    Bench b;
    for (const int64_t width : kWidths) {
      for (const int64_t groups : {1, 3}) {
        const int64_t rows = 4;
        const int64_t stride = width * groups + 3;
        const auto x = random_values(rows * stride, 1);
        const auto weight = random_values(width, 2);
        const float eps = 1e-5f;
        const auto run = [&](auto kernel) {
          std::vector<float> y(static_cast<size_t>(rows * stride), kNan);
          RmsNormArgs args{x.data(), stride, rows, width, weight.data(), eps, y.data(), stride};
          args.groups = groups;
          kernel(b.ctx, args);
          std::vector<float> dense;
          for (int64_t i = 0; i < rows * stride; ++i) {
            const bool inside = i % stride < width * groups;
            EXPECT_NE(inside, std::isnan(y[static_cast<size_t>(i)])) << "at " << i;
            if (inside) dense.push_back(y[static_cast<size_t>(i)]);
          }
          return dense;
        };
        expect_within_budget(run(cpu::rms_norm), run(naive::rms_norm), run(ref::rms_norm),
                             "width " + std::to_string(width));
      }
    }
  });
}

TEST(RmsNorm, ARowDoesNotDependOnBatchThreadsOrTarget) {
  const int64_t width = 577;
  const int64_t rows = 70;
  const auto x = random_values(rows * width, 3);
  std::vector<float> first;
  on_every_target([&] {
    for (const int threads : {1, 2, 3}) {
      Bench b(threads);
      std::vector<float> all(x.size());
      cpu::rms_norm(b.ctx, {x.data(), width, rows, width, nullptr, 1e-6f, all.data(), width});
      if (first.empty()) first = all;
      EXPECT_EQ(0, std::memcmp(first.data(), all.data(), all.size() * 4));
      std::vector<float> one(static_cast<size_t>(width));
      cpu::rms_norm(b.ctx,
                    {x.data() + 41 * width, width, 1, width, nullptr, 1e-6f, one.data(), width});
      EXPECT_EQ(0, std::memcmp(one.data(), all.data() + 41 * width, one.size() * 4));
    }
  });
}

TEST(Gated, MatchesTheSpecification) {
  on_every_target([] {
    Bench b;
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
      for (const int64_t width : kWidths) {
        const int64_t tokens = 3;
        const auto x = random_values(tokens * 2 * width, 4, 3);
        std::vector<float> got(static_cast<size_t>(tokens * width), kNan);
        std::vector<float> expected = got;
        std::vector<float> plain = got;
        cpu::gated(b.ctx, {x.data(), tokens, width, activation, got.data()});
        ref::gated(b.ctx, {x.data(), tokens, width, activation, expected.data()});
        naive::gated(b.ctx, {x.data(), tokens, width, activation, plain.data()});
        expect_within_budget(got, plain, expected, "width " + std::to_string(width));
      }
    }
  });
}

TEST(Gated, ExtremeInputsStayFinite) {
  Bench b;
  const std::vector<float> x = {-1e30f, -200, -88, 88, 200, 1e10f, 1, 1, 1, 1, 1, 1};
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    std::vector<float> y(6, kNan);
    cpu::gated(b.ctx, {x.data(), 1, 6, activation, y.data()});
    for (size_t i = 1; i < 5; ++i) EXPECT_TRUE(std::isfinite(y[i])) << i << ": " << y[i];
    EXPECT_NEAR(y[1], 0, 1e-6);
    EXPECT_FLOAT_EQ(y[4], 200);
  }
}

TEST(SigmoidGate, MatchesTheSpecificationAndKeepsToItsRows) {
  on_every_target([] {
    Bench b;
    for (const int64_t width : kWidths) {
      const int64_t tokens = 3;
      const auto gate = random_values(tokens * (width + 2), 5, 4);
      const auto y = random_values(tokens * (width + 1), 6);
      auto got = y;
      auto expected = y;
      auto plain = y;
      cpu::sigmoid_gate(b.ctx, {gate.data(), width + 2, tokens, width, got.data(), width + 1});
      ref::sigmoid_gate(b.ctx, {gate.data(), width + 2, tokens, width, expected.data(), width + 1});
      naive::sigmoid_gate(b.ctx, {gate.data(), width + 2, tokens, width, plain.data(), width + 1});
      for (int64_t t = 0; t < tokens; ++t) {
        const auto guard = static_cast<size_t>(t * (width + 1) + width);
        EXPECT_EQ(got[guard], y[guard]);
      }
      expect_within_budget(got, plain, expected, "width " + std::to_string(width));
    }
  });
}

TEST(Add, AddsEveryElement) {
  Bench b;
  for (const int64_t n : {0, 1, 15, 16, 17, 100000}) {
    const auto x = random_values(n, 7);
    const auto start = random_values(n, 8);
    auto plain = start;  // scales of one change no bit
    for (size_t i = 0; i < plain.size(); ++i) plain[i] += x[i];
    auto y = start;
    cpu::add(b.ctx, {.x = {x.data(), 1, n}, .y = {y.data(), 1, n}});
    EXPECT_EQ(y, plain);
    auto expected = start;
    y = start;
    ref::add(b.ctx, {{x.data(), 1, n}, {expected.data(), 1, n}, 0.3f, 1.7f});
    cpu::add(b.ctx, {{x.data(), 1, n}, {y.data(), 1, n}, 0.3f, 1.7f});
    EXPECT_EQ(y, expected);
  }
}

Rope made(const RopeSpec& spec) {
  auto rope = make_rope(spec);
  EXPECT_TRUE(rope.has_value()) << (rope ? "" : rope.error().message);
  return *rope;
}

TEST(Rope, MatchesTheSpecificationAtEveryPosition) {
  on_every_target([] {
    Bench b;
    // Digits of every level of the table and positions beyond it.
    const std::vector<int32_t> positions = {0,    1,     63,     64,     65,       4095,
                                            4096, 40000, 262143, 300000, 16777215, 2000000000};
    const auto tokens = static_cast<int64_t>(positions.size());
    for (const int64_t rotary : {2, 6, 16, 34, 64, 128}) {
      RopeSpec spec;
      spec.rotary = rotary;
      const Rope rope = made(spec);
      const int64_t width = rotary + 5;
      const int64_t stride = 3 * width + 2;
      const auto x = random_values(tokens * stride, 9);
      auto got = x;
      auto expected = x;
      auto plain = x;
      cpu::rope(b.ctx, {got.data(), stride, tokens, 3, width, positions.data(), &rope});
      ref::rope(b.ctx, {expected.data(), stride, tokens, 3, width, positions.data(), &rope});
      naive::rope(b.ctx, {plain.data(), stride, tokens, 3, width, positions.data(), &rope});
      expect_within_budget(got, plain, expected, "rotary " + std::to_string(rotary));
      for (int64_t i = 0; i < tokens * stride; ++i) {  // what is not rotated keeps its bits
        const int64_t in_row = i % stride;
        if (in_row >= 3 * width || in_row % width >= rotary) {
          EXPECT_EQ(got[static_cast<size_t>(i)], x[static_cast<size_t>(i)]);
        }
      }
    }
  });
}

TEST(Rope, Llama3ScalingKeepsShortWavesAndStretchesLongOnes) {
  RopeSpec spec;
  spec.rotary = 128;
  spec.theta = 5e5;
  const Rope plain = made(spec);
  spec.scaling = "llama3";
  spec.factor = 8;
  spec.original_context = 8192;
  const Rope scaled = made(spec);
  for (size_t i = 0; i < 64; ++i) {
    const double wave = 2 * std::numbers::pi / plain.inv_freq[i];
    const double ratio = plain.inv_freq[i] / scaled.inv_freq[i];
    if (wave < 2048)
      EXPECT_DOUBLE_EQ(ratio, 1) << i;
    else if (wave > 8192)
      EXPECT_DOUBLE_EQ(ratio, 8) << i;
    else
      EXPECT_TRUE(ratio > 1 && ratio < 8) << i << ": " << ratio;
  }
  EXPECT_EQ(scaled.scale, 1);
}

TEST(Rope, YarnInterpolatesAndScalesTheLogits) {
  RopeSpec spec;
  spec.rotary = 64;
  spec.theta = 150000;
  const Rope plain = made(spec);
  spec.scaling = "yarn";
  spec.factor = 32;
  spec.original_context = 4096;
  spec.truncate = false;
  const Rope scaled = made(spec);
  EXPECT_DOUBLE_EQ(scaled.inv_freq[0], plain.inv_freq[0]);
  EXPECT_DOUBLE_EQ(scaled.inv_freq[31], plain.inv_freq[31] / 32);
  EXPECT_DOUBLE_EQ(scaled.scale, 0.1 * std::log(32.0) + 1);
  // corr(32) = 8.09, corr(1) = 17.40 for these numbers: dimension 12 lies between.
  const double ratio = plain.inv_freq[12] / scaled.inv_freq[12];
  EXPECT_TRUE(ratio > 1 && ratio < 32) << ratio;
}

TEST(Rope, FrequencyFactorsDivide) {
  RopeSpec spec;
  spec.rotary = 4;
  const Rope plain = made(spec);
  spec.freq_factors = {2, 4};
  const Rope scaled = made(spec);
  EXPECT_DOUBLE_EQ(scaled.inv_freq[0], plain.inv_freq[0] / 2);
  EXPECT_DOUBLE_EQ(scaled.inv_freq[1], plain.inv_freq[1] / 4);
}

TEST(Rope, RefusesNonsense) {
  const auto refused = [](const std::function<void(RopeSpec&)>& change) {
    RopeSpec spec;
    spec.rotary = 64;
    change(spec);
    return !make_rope(spec).has_value();
  };
  EXPECT_TRUE(refused([](RopeSpec& s) { s.rotary = 3; }));
  EXPECT_TRUE(refused([](RopeSpec& s) { s.rotary = -2; }));
  EXPECT_TRUE(refused([](RopeSpec& s) { s.theta = 0; }));
  EXPECT_TRUE(refused([](RopeSpec& s) { s.theta = std::nan(""); }));
  EXPECT_TRUE(refused([](RopeSpec& s) { s.scaling = "magic"; }));
  EXPECT_TRUE(refused([](RopeSpec& s) { s.factor = -1; }));
  EXPECT_TRUE(refused([](RopeSpec& s) { s.scaling = "yarn"; }));
  EXPECT_TRUE(refused([](RopeSpec& s) { s.freq_factors = {1, 2, 3}; }));
  EXPECT_FALSE(refused([](RopeSpec&) {}));
}

}  // namespace
}  // namespace heddle::ops
