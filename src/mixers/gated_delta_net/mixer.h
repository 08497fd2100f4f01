#pragma once
// Internal to this folder: what mixer.cpp and cases.cpp share.
#include <vector>

#include "mixers/mixer.h"

namespace heddle::mixers::gated_delta_net {
std::vector<MixerCase> cases();
}
