// Softmax attention over everything before. Equations: README.md.
#include "mixers/full_attention/attention_layer.h"

namespace heddle::mixers {
namespace {

constexpr std::string_view kName = "full_attention";

Result<std::unique_ptr<sublayer::Design>> design(const sublayer::Params& params,
                                                 const sublayer::StatePrecision& precision) {
  HEDDLE_TRY(const auto config, full_attention::read_config(kName, params, precision, false));
  return full_attention::make_design(config);
}

std::vector<sublayer::Case> cases() { return full_attention::attention_cases(0); }

std::vector<float> naive(const sublayer::NaiveRun& run) {
  return full_attention::attention_naive(run, false);
}

}  // namespace

const sublayer::Kind& full_attention_kind() {
  static const sublayer::Kind kind{kName, design, cases, naive};
  return kind;
}

}  // namespace heddle::mixers
