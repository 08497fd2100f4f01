#pragma once
// Internal to this folder: what ffn.cpp and cases.cpp share.
#include <vector>

#include "sublayer/sublayer.h"

namespace heddle::ffn::gated {
std::vector<sublayer::Case> cases();
std::vector<float> naive(const sublayer::NaiveRun& run);
}  // namespace heddle::ffn::gated
