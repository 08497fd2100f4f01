// Softmax attention over the last `window` tokens. The layer is that of full_attention.
#include "mixers/full_attention/attention_layer.h"

namespace heddle::mixers {
namespace {

constexpr std::string_view kName = "sliding_window";

Result<std::unique_ptr<MixerDesign>> design(const Params& params) {
  HEDDLE_TRY(const auto config, full_attention::read_config(kName, params, true));
  return full_attention::make_design(config);
}

std::vector<MixerCase> cases() {
  std::vector<MixerCase> all;
  for (const int64_t window : {17, 100})  // inside a page, across two pages
    for (MixerCase& c : full_attention::attention_cases(window)) all.push_back(std::move(c));
  return all;
}

}  // namespace

const MixerKind& sliding_window_kind() {
  static const MixerKind kind{kName, design, cases};
  return kind;
}

}  // namespace heddle::mixers
