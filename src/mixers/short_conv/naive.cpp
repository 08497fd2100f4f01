// README.md's equations in float32 over a whole sequence.
#include "sublayer/naive.h"

#include "mixers/short_conv/mixer.h"

namespace heddle::mixers::short_conv {

std::vector<float> naive(const sublayer::NaiveRun& run) {
  const std::vector<float> taps = run.values("conv");  // [D, W]
  const std::vector<float> bcu = run.product("in_proj", run.x);
  const size_t tokens = static_cast<size_t>(run.tokens), d = run.x.size() / tokens;
  const size_t w = taps.size() / d;
  std::vector<float> mixed(tokens * d);
  for (size_t t = 0; t < tokens; ++t)
    for (size_t c = 0; c < d; ++c) {
      float sum = 0;
      for (size_t back = 0; back < w && back <= t; ++back) {
        const float* row = bcu.data() + (t - back) * 3 * d;
        sum += taps[c * w + w - 1 - back] * (row[c] * row[2 * d + c]);
      }
      mixed[t * d + c] = bcu[t * 3 * d + d + c] * sum;
    }
  return run.product("out_proj", mixed);
}

}  // namespace heddle::mixers::short_conv
