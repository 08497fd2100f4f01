// (a, b) <- (a cos - b sin, b cos + a sin) over pairs of half a head: threads own tokens. Angles in
// float64 from a table of turns (one complex product for each base-64 digit of the position but the
// first), the rotation itself in float32. A token's cosines serve all its heads. Floor: x read and
// written, 8 bytes and 3 FLOPs an element; the angles' 6 float64 FLOPs a digit are shared by the
// heads.
#include <algorithm>
#include <cmath>

#include "ops/elementwise/rope.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/elementwise/rope_cpu.cpp"
#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

// x[i], x[half + i] of every head of one token. cosine, sine [half]
static void rotate_heads(const float* cosine, const float* sine, int64_t half, int64_t heads,
                         int64_t width, float* x) {
  for (int64_t h = 0; h < heads; ++h, x += width) {
    int64_t i = 0;
    for (; i + 16 <= half; i += 16) {
      const F32x16 a = load16(x + i);
      const F32x16 b = load16(x + half + i);
      const F32x16 c = load16(cosine + i);
      const F32x16 s = load16(sine + i);
      store16(nfma(b, s, mul(a, c)), x + i);
      store16(fma(a, s, mul(b, c)), x + half + i);
    }
    if (i < half) {
      const int64_t n = half - i;
      const F32x16 a = load16_partial(x + i, n);
      const F32x16 b = load16_partial(x + half + i, n);
      const F32x16 c = load16_partial(cosine + i, n);
      const F32x16 s = load16_partial(sine + i, n);
      store16_partial(nfma(b, s, mul(a, c)), x + i, n);
      store16_partial(fma(a, s, mul(b, c)), x + half + i, n);
    }
  }
}

// scratch: 2 half doubles, then 2 half floats.
void rope_tokens(const RopeArgs& args, int64_t begin, int64_t end, double* scratch) {
  const auto half = static_cast<int64_t>(args.rope->inv_freq.size());
  double* cosine = scratch;
  double* sine = scratch + half;
  auto* cosine32 = reinterpret_cast<float*>(scratch + 2 * half);
  float* sine32 = cosine32 + half;
  const auto scale = args.rope->scale;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t position = args.positions[t];
    if (t == begin || position != args.positions[t - 1]) {
      const double* turn = args.rope->turns.data() + position % 64 * 2 * half;
      std::copy(turn, turn + 2 * half, cosine);
      int64_t rest = position / 64;
      for (int64_t level = 1; rest != 0 && level < kRopeLevels; ++level, rest /= 64) {
        const int64_t digit = rest % 64;
        turn = args.rope->turns.data() + (level * 64 + digit) * 2 * half;
        for (int64_t i = 0; i < half; ++i) {
          const double c = cosine[i] * turn[i] - sine[i] * turn[half + i];
          sine[i] = sine[i] * turn[i] + cosine[i] * turn[half + i];
          cosine[i] = c;
        }
      }
      if (rest != 0) {  // beyond 64^levels positions
        for (int64_t i = 0; i < half; ++i) {
          const double angle =
              static_cast<double>(position) * args.rope->inv_freq[static_cast<size_t>(i)];
          cosine[i] = std::cos(angle);
          sine[i] = std::sin(angle);
        }
      }
      for (int64_t i = 0; i < half; ++i) cosine32[i] = static_cast<float>(cosine[i] * scale);
      for (int64_t i = 0; i < half; ++i) sine32[i] = static_cast<float>(sine[i] * scale);
    }
    rotate_heads(cosine32, sine32, half, args.heads, args.width, args.x + t * args.stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops {

HWY_EXPORT(rope_tokens);

void cpu::rope(backend::Context& ctx, const RopeArgs& args) {
  const auto half = static_cast<int64_t>(args.rope->inv_freq.size());
  if (half == 0) return;
  const auto kernel = HWY_DYNAMIC_DISPATCH(rope_tokens);
  const backend::ArenaScope scope(ctx.scratch);
  const int64_t scratch_size = (3 * half + 7) / 8 * 8;
  auto* scratch = ctx.scratch.allocate<double>(scratch_size * ctx.pool.threads());
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, args.heads * 2 * half));
  ctx.pool.parallel_for(args.tokens, grain, [&](int64_t begin, int64_t end, int thread) {
    kernel(args, begin, end, scratch + thread * scratch_size);
  });
}

}  // namespace heddle::ops
#endif
