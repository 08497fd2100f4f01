#pragma once
// Which instruction set the kernels use. Targets, best first: "avx512" (AVX-512 with VNNI),
// "avx2" (with FMA and F16C), "scalar" (any CPU; for tests, slow).
#include <string_view>
#include <vector>

#include "base/result.h"

namespace heddle::backend {

// Names of the targets that this CPU supports, best first; never empty.
std::vector<std::string_view> supported_targets();

// The target that kernels called from now on use; at start, the best supported one.
std::string_view active_target();

// Chooses a target for the whole process: "auto" = the best one. Call while no kernel runs (the
// command line calls it once at start, tests between runs). Fails on a name that is unknown or that
// this CPU does not support.
Status use_target(std::string_view name);

}  // namespace heddle::backend
