#pragma once
// Internal to this folder: what mixer.cpp and cases.cpp share.
#include <vector>

#include "sublayer/sublayer.h"

namespace heddle::mixers::short_conv {
std::vector<sublayer::Case> cases();
std::vector<float> naive(const sublayer::NaiveRun& run);
}  // namespace heddle::mixers::short_conv
