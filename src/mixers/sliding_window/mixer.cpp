// Softmax attention over the last `window` tokens. The layer is that of full_attention.
#include "mixers/full_attention/attention_layer.h"

namespace heddle::mixers {
namespace {

constexpr std::string_view kName = "sliding_window";

Result<std::unique_ptr<sublayer::Design>> design(const sublayer::Params& params,
                                                 const sublayer::StatePrecision& precision) {
  HEDDLE_TRY(const auto config, full_attention::read_config(kName, params, precision, true));
  return full_attention::make_design(config);
}

std::vector<sublayer::Case> cases() {
  std::vector<sublayer::Case> all;
  for (const int64_t window : {17, 100})  // inside a page, across two pages
    for (sublayer::Case& c : full_attention::attention_cases(window)) all.push_back(std::move(c));
  return all;
}

std::vector<float> naive(const sublayer::NaiveRun& run) {
  return full_attention::attention_naive(run, true);
}

}  // namespace

const sublayer::Kind& sliding_window_kind() {
  static const sublayer::Kind kind{kName, design, cases, naive};
  return kind;
}

}  // namespace heddle::mixers
