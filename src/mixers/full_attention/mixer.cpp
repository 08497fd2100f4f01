// Softmax attention over everything before. Equations: README.md.
#include "mixers/full_attention/attention_layer.h"

namespace heddle::mixers {
namespace {

constexpr std::string_view kName = "full_attention";

Result<std::unique_ptr<MixerDesign>> design(const Params& params) {
  HEDDLE_TRY(const auto config, full_attention::read_config(kName, params, false));
  return full_attention::make_design(config);
}

std::vector<MixerCase> cases() { return full_attention::attention_cases(0); }

}  // namespace

const MixerKind& full_attention_kind() {
  static const MixerKind kind{kName, design, cases};
  return kind;
}

}  // namespace heddle::mixers
