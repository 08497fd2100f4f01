#include "backend/machine_limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/machine_limits.cpp"
#include "backend/simd/simd.h"
//
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

HWY_BEFORE_NAMESPACE();
namespace heddle::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums `count` floats (a multiple of 256) in eight chains.
float read_sum(const float* data, int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto a = hn::Zero(d), b = a, c = a, e = a, f = a, g = a, h = a, k = a;
  for (int64_t i = 0; i < count; i += 8 * lanes) {
    a = hn::Add(a, hn::LoadU(d, data + i));
    b = hn::Add(b, hn::LoadU(d, data + i + lanes));
    c = hn::Add(c, hn::LoadU(d, data + i + 2 * lanes));
    e = hn::Add(e, hn::LoadU(d, data + i + 3 * lanes));
    f = hn::Add(f, hn::LoadU(d, data + i + 4 * lanes));
    g = hn::Add(g, hn::LoadU(d, data + i + 5 * lanes));
    h = hn::Add(h, hn::LoadU(d, data + i + 6 * lanes));
    k = hn::Add(k, hn::LoadU(d, data + i + 7 * lanes));
  }
  return hn::GetLane(
      hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, e)), hn::Add(hn::Add(f, g), hn::Add(h, k))));
}

// Twelve independent chains hide any latency. The barrier keeps a chain's step from being merged
// with the next.
#define HEDDLE_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3_DL
#define HEDDLE_KEEP(value) asm volatile("" : "+v"(value.raw))
#else
#define HEDDLE_KEEP(value) asm volatile("" : "+m"(value.raw))
#endif

// Runs `steps` rounds of twelve vector FMAs; returns the operations done.
double fp32_work(int64_t steps, float* sink) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, 1.0000001f);
  const auto y = hn::Set(d, 1e-9f);
#define HEDDLE_START(n) auto v##n = hn::Set(d, 1.0f + n);
#define HEDDLE_STEP(n)           \
  v##n = hn::MulAdd(v##n, x, y); \
  HEDDLE_KEEP(v##n);
#define HEDDLE_SUM(n) total += hn::GetLane(v##n);
  HEDDLE_CHAINS(HEDDLE_START)
  for (int64_t i = 0; i < steps; ++i) {
    HEDDLE_CHAINS(HEDDLE_STEP)
  }
  float total = 0;
  HEDDLE_CHAINS(HEDDLE_SUM)
  *sink = total;
  return 2.0 * 12 * static_cast<double>(steps) * static_cast<double>(hn::Lanes(d));
}
#undef HEDDLE_START
#undef HEDDLE_STEP
#undef HEDDLE_SUM

double int8_work(int64_t steps, float* sink) {
  int32_t total = 0;
#if HWY_TARGET == HWY_AVX3_DL
  const __m512i x = _mm512_set1_epi8(3);
  const __m512i y = _mm512_set1_epi8(1);
// As text: Highway 1.0.3 does not switch the VNNI intrinsics on for this target.
#define HEDDLE_START(n) __m512i v##n = _mm512_set1_epi32(n);
#define HEDDLE_STEP(n) asm volatile("vpdpbusd %2, %1, %0" : "+v"(v##n) : "v"(x), "v"(y));
#define HEDDLE_SUM(n) total += _mm512_cvtsi512_si32(v##n);
  const double products = 64;
#elif HWY_TARGET == HWY_AVX2
  const __m256i x = _mm256_set1_epi8(3);
  __m256i y = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
#define HEDDLE_START(n) __m256i v##n = _mm256_set1_epi32(n);
#define HEDDLE_STEP(n)                                                                \
  asm volatile("" : "+v"(y));                                                         \
  v##n = _mm256_add_epi32(v##n, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones)); \
  asm volatile("" : "+v"(v##n));
#define HEDDLE_SUM(n) total += _mm256_cvtsi256_si32(v##n);
  const double products = 32;
#else
#define HEDDLE_START(n) int32_t v##n = n;
#define HEDDLE_STEP(n) \
  v##n += 3;           \
  asm volatile("" : "+r"(v##n));
#define HEDDLE_SUM(n) total += v##n;
  const double products = 1;
#endif
  HEDDLE_CHAINS(HEDDLE_START)
  for (int64_t i = 0; i < steps; ++i) {
    HEDDLE_CHAINS(HEDDLE_STEP)
  }
  HEDDLE_CHAINS(HEDDLE_SUM)
  *sink = static_cast<float>(total);
  return 2.0 * 12 * static_cast<double>(steps) * products;
}
#undef HEDDLE_START
#undef HEDDLE_STEP
#undef HEDDLE_SUM
#undef HEDDLE_CHAINS
#undef HEDDLE_KEEP

}  // namespace HWY_NAMESPACE
}  // namespace heddle::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::backend {
namespace {

HWY_EXPORT(read_sum);
HWY_EXPORT(fp32_work);
HWY_EXPORT(int8_work);

// The best of `rounds`: work(thread) returns what was done, in units; the rate is in units per
// second over all threads.
template <class Work>
double best_rate(ThreadPool& pool, int rounds, Work work) {
  double best = 0;
  std::vector<double> done(static_cast<size_t>(pool.threads()));
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int thread) { done[static_cast<size_t>(thread)] = work(thread); });
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double total = 0;
    for (const double units : done) total += units;
    best = std::max(best, total / seconds);
  }
  return best;
}

}  // namespace

MachineLimits measure_limits(ThreadPool& pool, int rounds, int64_t read_bytes) {
  const auto read = HWY_DYNAMIC_DISPATCH(read_sum);
  const auto fp32 = HWY_DYNAMIC_DISPATCH(fp32_work);
  const auto int8 = HWY_DYNAMIC_DISPATCH(int8_work);
  std::vector<float> sinks(static_cast<size_t>(pool.threads()) * 16);
  const auto sink = [&](int thread) { return &sinks[static_cast<size_t>(thread) * 16]; };
  MachineLimits limits;
  {
    const int64_t floats = read_bytes / 4 / pool.threads() / 256 * 256;
    struct Freed {
      void operator()(float* data) const { std::free(data); }
    };
    std::vector<std::unique_ptr<float[], Freed>> data;
    for (int t = 0; t < pool.threads(); ++t) {
      data.emplace_back(
          static_cast<float*>(std::aligned_alloc(4096, static_cast<size_t>(floats) * 4)));
      if (data.back() == nullptr) return limits;
    }
    pool.run([&](int t) {
      std::memset(data[static_cast<size_t>(t)].get(), 1, static_cast<size_t>(floats) * 4);
    });
    limits.read_bytes_per_s = best_rate(pool, rounds, [&](int t) {
      *sink(t) = read(data[static_cast<size_t>(t)].get(), floats);
      return static_cast<double>(floats) * 4;
    });
  }
  limits.fp32_flops = best_rate(pool, rounds, [&](int t) { return fp32(2'000'000, sink(t)); });
  limits.int8_ops = best_rate(pool, rounds, [&](int t) { return int8(2'000'000, sink(t)); });
  return limits;
}

}  // namespace heddle::backend
#endif
