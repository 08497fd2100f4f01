// Softmax attention over everything before. Equations: README.md.
#include "mixers/full_attention/attention_layer.h"

namespace heddle::mixers {
namespace {

constexpr std::string_view kName = "full_attention";

Result<std::unique_ptr<sublayer::Design>> design(const sublayer::Params& params) {
  HEDDLE_TRY(const auto config, full_attention::read_config(kName, params, false));
  return full_attention::make_design(config);
}

std::vector<sublayer::Case> cases() { return full_attention::attention_cases(0); }

}  // namespace

const sublayer::Kind& full_attention_kind() {
  static const sublayer::Kind kind{kName, design, cases};
  return kind;
}

}  // namespace heddle::mixers
