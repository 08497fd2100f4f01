#pragma once
// Published shapes with random weights, for benches and tests that need no download.
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/result.h"
#include "model/spec.h"

namespace heddle::model {

struct Preset {
  ModelSpec spec;
  DType dtype = DType::bf16;  // of the matrices
};
std::vector<std::string_view> preset_names();
// "NAME" or "NAME:TYPE", TYPE bf16, f16, q8_0 or q4_0.
Result<Preset> parse_preset(std::string_view text);

}  // namespace heddle::model
