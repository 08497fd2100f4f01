#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "ops/conv/causal_conv.h"

namespace heddle::ops {

namespace ref {

double causal_conv_at(const CausalConvArgs& args, int64_t segment, int64_t i, int64_t channel) {
  double sum = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[channel]);
  for (int64_t j = 0; j < args.taps; ++j) {
    const float* x = causal_conv_tap(args, segment, i, args.taps - 1 - j);
    if (x != nullptr)
      sum += static_cast<double>(args.weights[j * args.channels + channel]) *
             static_cast<double>(x[channel]);
  }
  return args.silu ? sum / (1.0 + std::exp(-sum)) : sum;
}

void causal_conv(backend::Context&, const CausalConvArgs& args) {
  for (size_t n = 0; n < args.batch->segments.size(); ++n) {
    const state::Segment& s = args.batch->segments[n];
    for (int64_t i = 0; i < s.length; ++i)
      for (int64_t c = 0; c < args.channels; ++c)
        args.y[(s.row + i) * args.y_stride + c] =
            static_cast<float>(causal_conv_at(args, static_cast<int64_t>(n), i, c));
  }
  causal_conv_store(args);
}

}  // namespace ref

}  // namespace heddle::ops
