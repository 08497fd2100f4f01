// Sizes that contract tests, goldens and benches run.
#include "mixers/short_conv/mixer.h"

namespace heddle::mixers::short_conv {

std::vector<sublayer::Case> cases() {
  return {{"small", {{"d_model", int64_t{48}}, {"taps", int64_t{3}}}},
          {"odd", {{"d_model", int64_t{37}}, {"taps", int64_t{4}}}},
          {"two_taps", {{"d_model", int64_t{16}}, {"taps", int64_t{2}}}},
          {"lfm2-350m", {{"d_model", int64_t{1024}}, {"taps", int64_t{3}}, {"bench_only", true}}}};
}

}  // namespace heddle::mixers::short_conv
