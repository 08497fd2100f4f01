#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/target.h"
#include "base/rng.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/simd/math_test.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::backend {
namespace HWY_NAMESPACE {

// out: exp, sigmoid, silu, gelu_tanh of x, one after the other. count is a multiple of 16.
void apply_all(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const F32x16 v = load16(x + i);
    store16(exp(v), out + i);
    store16(sigmoid(v), out + count + i);
    store16(silu(v), out + 2 * count + i);
    store16(gelu_tanh(v), out + 3 * count + i);
  }
}

void exp_both_ways(const float* x, int64_t count, float* any, float* of_negative) {
  for (int64_t i = 0; i < count; i += 16) {
    store16(exp(load16(x + i)), any + i);
    store16(exp_of_negative(load16(x + i)), of_negative + i);
  }
}

// Dot product with the partial sums of the 16 lanes; the last block may be short.
float dot16(const float* a, const float* b, int64_t count) {
  F32x16 total = zero16();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) total = fma(load16(a + i), load16(b + i), total);
  if (i < count)
    total = fma(load16_partial(a + i, count - i), load16_partial(b + i, count - i), total);
  return sum(total);
}

float largest(const float* a) { return max_lane(load16(a)); }

void round_trip_bf16(const float* a, uint16_t* bits, float* out) {
  store16_bf16(load16(a), bits);
  store16(load16_bf16(bits), out);
}

void widen_f16(const uint16_t* bits, float* out) { store16(load16_f16(bits), out); }

}  // namespace HWY_NAMESPACE
}  // namespace heddle::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "base/dtype.h"
namespace heddle::backend {
HWY_EXPORT(apply_all);
HWY_EXPORT(exp_both_ways);
HWY_EXPORT(dot16);
HWY_EXPORT(largest);
HWY_EXPORT(round_trip_bf16);
HWY_EXPORT(widen_f16);
namespace {

template <class F>
void on_every_target(F test) {
  for (const std::string_view target : backend::supported_targets()) {
    SCOPED_TRACE(std::string(target));
    ASSERT_TRUE(backend::use_target(target));
    ASSERT_EQ(backend::active_target(), target);
    test();
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

// Distance in units in the last place of the true value.
double ulps(float got, double want) {
  if (std::abs(want) > std::numeric_limits<float>::max())
    return std::isinf(got) && (got > 0) == (want > 0) ? 0 : 1e9;
  int exponent;
  std::frexp(want, &exponent);
  const double ulp = std::ldexp(1.0, std::max(exponent - 24, -149));
  return std::abs(got - want) / ulp;
}

TEST(Targets, NamesAreKnownAndUnknownOnesRefused) {
  const auto names = backend::supported_targets();
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.back(), "scalar");
  EXPECT_EQ(backend::active_target(), names.front());
  const Status status = backend::use_target("sse9");
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("scalar"), std::string::npos);
  EXPECT_EQ(backend::active_target(), names.front());
}

TEST(Math, ElementaryFunctionsAreAccurateAndEqualOnEveryTarget) {
  constexpr int64_t kCount = 1 << 16;
  std::vector<float> x(kCount);
  for (int64_t i = 0; i < kCount; ++i)
    x[i] = static_cast<float>(-110.0 + 200.0 * static_cast<double>(i) / kCount);
  x[0] = 0;
  x[1] = -0.0f;
  x[2] = -200;
  x[3] = 200;
  x[4] = 1e-30f;
  x[5] = -std::numeric_limits<float>::infinity();
  std::vector<float> first;
  on_every_target([&] {
    std::vector<float> out(4 * kCount, NAN);
    HWY_DYNAMIC_DISPATCH(apply_all)(x.data(), kCount, out.data());
    double worst[4] = {};
    for (int64_t i = 0; i < kCount; ++i) {
      const double v = x[i];
      const double sig = 1 / (1 + std::exp(-v));
      worst[0] = std::max(worst[0], ulps(out[i], std::exp(v)));
      worst[1] = std::max(worst[1], std::abs(out[kCount + i] - sig) / std::max(sig, 1e-30));
      if (!std::isfinite(v)) continue;
      worst[2] = std::max(
          worst[2], std::abs(out[2 * kCount + i] - v * sig) / std::max(std::abs(v * sig), 1e-28));
      const double gelu =
          0.5 * v * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
      worst[3] = std::max(worst[3], std::abs(out[3 * kCount + i] - gelu));
    }
    EXPECT_LE(worst[0], 1.1);     // exp, ulps
    EXPECT_LE(worst[1], 2.4e-7);  // sigmoid, relative
    EXPECT_LE(worst[2], 3.6e-7);  // silu, relative
    EXPECT_LE(worst[3], 1e-5);    // gelu, absolute for |x| <= 200
    EXPECT_EQ(out[0], 1.0f);
    EXPECT_EQ(out[2], 0.0f);
    EXPECT_TRUE(std::isinf(out[3]));
    if (first.empty()) first = out;
    EXPECT_EQ(std::memcmp(first.data(), out.data(), out.size() * sizeof(float)), 0);
  });
}

TEST(Math, ExpOfNegativeIsExpUntilItIsZero) {
  constexpr int64_t kCount = 1 << 16;
  std::vector<float> x(kCount);
  for (int64_t i = 0; i < kCount; ++i)
    x[i] = static_cast<float>(-110.0 * static_cast<double>(i) / kCount);
  x[1] = -0.0f;
  x[2] = -std::numeric_limits<float>::max();
  x[3] = -std::numeric_limits<float>::infinity();
  on_every_target([&] {
    std::vector<float> any(kCount, NAN), of_negative(kCount, NAN);
    HWY_DYNAMIC_DISPATCH(exp_both_ways)(x.data(), kCount, any.data(), of_negative.data());
    int64_t zeros = 0;
    for (int64_t i = 0; i < kCount; ++i) {
      if (of_negative[i] == 0) {
        ++zeros;
        EXPECT_FALSE(std::signbit(of_negative[i]));
        EXPECT_LT(any[i], std::numeric_limits<float>::min()) << x[i];
      } else {
        EXPECT_EQ(of_negative[i], any[i]) << x[i];
      }
    }
    EXPECT_GT(zeros, kCount / 6);
    EXPECT_EQ(of_negative[2], 0.0f);
    EXPECT_EQ(of_negative[3], 0.0f);
  });
}

TEST(Math, SumsHaveTheSameBitsOnEveryTarget) {
  Rng rng(7);
  for (const int64_t count : {1, 15, 16, 17, 64, 1000}) {
    std::vector<float> a(count), b(count);
    for (float& v : a) v = static_cast<float>(rng.normal());
    for (float& v : b) v = static_cast<float>(rng.normal());
    double want = 0;
    for (int64_t i = 0; i < count; ++i) want += static_cast<double>(a[i]) * b[i];
    std::vector<float> results;
    on_every_target([&] {
      results.push_back(HWY_DYNAMIC_DISPATCH(dot16)(a.data(), b.data(), count));
      EXPECT_NEAR(results.back(), want, 1e-5 * std::sqrt(static_cast<double>(count)));
    });
    for (const float value : results) EXPECT_EQ(value, results[0]);
  }
}

TEST(Math, LaneHelpers) {
  on_every_target([&] {
    float a[16];
    uint16_t bits[16];
    float out[16];
    for (int i = 0; i < 16; ++i) a[i] = static_cast<float>((i * 7) % 16) * 1.2345f - 3.0f;
    EXPECT_EQ(HWY_DYNAMIC_DISPATCH(largest)(a), *std::max_element(a, a + 16));
    HWY_DYNAMIC_DISPATCH(round_trip_bf16)(a, bits, out);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(bits[i], f32_to_bf16(a[i]));
      EXPECT_EQ(out[i], bf16_to_f32(bits[i]));
    }
    for (int i = 0; i < 16; ++i) bits[i] = f32_to_f16(a[i] * 1e-5f);
    HWY_DYNAMIC_DISPATCH(widen_f16)(bits, out);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], f16_to_f32(bits[i]));
  });
}

}  // namespace
}  // namespace heddle::backend
#endif  // HWY_ONCE
