// Sizes that contract tests, goldens and benches run.
#include "mixers/short_conv/mixer.h"

namespace heddle::mixers::short_conv {

std::vector<sublayer::Case> cases() {
  const auto params = [](int64_t d_model, int64_t taps) {
    return sublayer::Params({{"d_model", d_model}, {"taps", taps}});
  };
  return {{"small", params(48, 3)},
          {"odd", params(37, 4)},
          {"two_taps", params(16, 2)},
          {.name = "quantised", .params = params(64, 3), .weights = DType::q8_0},
          {.name = "lfm2-350m", .params = params(1024, 3), .bench = true}};
}

}  // namespace heddle::mixers::short_conv
