// y[t, c] = act(bias[c] + sum_j w[j, c] x[tap j of t, c]): threads own ranges of channels, so a row
// of a single token is shared out too. Each output is one chain of W fused steps, oldest tap first:
// which rows stand in the batch beside it changes nothing. Floor: x and y once over memory.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/conv/causal_conv_cpu.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target.
#include "ops/conv/causal_conv-inl.h"
#include "ops/conv/causal_conv.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {

// Channels [begin, end) of every row.
static void causal_conv_channels(const CausalConvArgs& args, int64_t begin, int64_t end) {
  for (size_t n = 0; n < args.batch->segments.size(); ++n) {
    const state::Segment& s = args.batch->segments[n];
    for (int64_t i = 0; i < s.length; ++i) {
      ConvRow row;
      for (int64_t j = 0; j < args.taps; ++j) {
        const float* x = causal_conv_tap(args, static_cast<int64_t>(n), i, args.taps - 1 - j);
        row.x[j] = x == nullptr ? nullptr : x + begin;
      }
      row.weights = args.weights + begin;
      row.weights_stride = args.channels;
      row.bias = args.bias == nullptr ? nullptr : args.bias + begin;
      float* y = args.y + (s.row + i) * args.y_stride + begin;
      const bool activate = args.silu;
      conv_row(row, args.taps, end - begin, [=](int64_t c, F32x16 v, int64_t count) HWY_ATTR {
        if (activate) v = silu(v);
        count == 16 ? store16(v, y + c) : store16_partial(v, y + c, count);
      });
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops {
HWY_EXPORT(causal_conv_channels);

void cpu::causal_conv(backend::Context& ctx, const CausalConvArgs& args) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(causal_conv_channels);
  ctx.pool.parallel_for(args.channels, 64,
                        [&](int64_t begin, int64_t end, int) { kernel(args, begin, end); });
  causal_conv_store(args);
}

}  // namespace heddle::ops
#endif
