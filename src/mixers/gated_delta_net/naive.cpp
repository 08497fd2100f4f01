// The plain recurrence of README.md in float32, between naive products.
#include "sublayer/naive.h"

#include <algorithm>

#include "base/check.h"
#include "mixers/gated_delta_net/mixer.h"
#include "mixers/gated_delta_net/recurrence.h"
#include "ops/conv/causal_conv.h"

namespace heddle::mixers::gated_delta_net {

std::vector<float> naive(const sublayer::NaiveRun& run) {
  const auto sizes = read_sizes(run.params);
  HEDDLE_CHECK(sizes.has_value(), "naive form: parameters that no design takes");
  std::vector<std::vector<float>> rows(static_cast<size_t>(run.tokens));
  for (const char* name : {"qkv_proj", "z_proj", "b_proj", "a_proj"}) {
    const std::vector<float> part = run.product(name, run.x);
    const auto width = static_cast<std::ptrdiff_t>(part.size() / rows.size());
    for (size_t t = 0; t < rows.size(); ++t) {
      const auto begin = part.begin() + static_cast<std::ptrdiff_t>(t) * width;
      rows[t].insert(rows[t].end(), begin, begin + width);
    }
  }
  const std::vector<float> conv =
      ops::transpose_taps(run.values("conv"), sizes->channels(), sizes->taps);
  const std::vector<float> decay = run.values("decay"), dt_bias = run.values("dt_bias");
  const std::vector<float> norm = run.values("norm");
  MixArgs args;
  args.sizes = &*sizes;
  args.conv = conv.data();
  args.decay = decay.data();
  args.dt_bias = dt_bias.data();
  args.norm = norm.data();
  std::vector<float> mixed;
  for (const std::vector<float>& row : recurrence<float>(args, rows))
    mixed.insert(mixed.end(), row.begin(), row.end());
  return run.product("out_proj", mixed);
}

}  // namespace heddle::mixers::gated_delta_net
