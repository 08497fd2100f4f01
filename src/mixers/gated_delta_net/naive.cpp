// The plain recurrence of README.md in float32, between naive products.
#include "sublayer/naive.h"

#include <algorithm>

#include "base/check.h"
#include "mixers/gated_delta_net/equations.h"

namespace heddle::mixers::gated_delta_net {

std::vector<float> naive(const sublayer::NaiveRun& run) {
  const auto sizes = read_sizes(run.params);
  HEDDLE_CHECK(sizes.has_value(), "naive form: parameters that no design takes");
  backend::WeightMemory memory;
  const auto weights = read_weights(run.weights, *sizes, memory);
  HEDDLE_CHECK(weights.has_value(), "naive form: weights that no design takes");
  std::vector<float> mixed;
  for (const auto& row : recurrence<float>(MixArgs(*sizes, *weights), run.stacked(kInputs, run.x)))
    mixed.insert(mixed.end(), row.begin(), row.end());
  return run.product("out_proj", mixed);
}

}  // namespace heddle::mixers::gated_delta_net
