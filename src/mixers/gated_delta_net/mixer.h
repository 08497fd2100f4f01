#pragma once
// What the files of this folder share, and its benches.
#include <vector>

#include "backend/profile.h"
#include "mixers/gated_delta_net/kernels.h"
#include "sublayer/sublayer.h"

namespace heddle::mixers::gated_delta_net {

std::vector<sublayer::Case> cases();
std::vector<float> naive(const sublayer::NaiveRun& run);
std::vector<sublayer::Probe> probes();
// The parameters, checked.
Result<Sizes> read_sizes(const sublayer::Params& params);
// The folded part of these sizes (kDeltaPart).
state::StatePart delta_part(const Sizes& sizes);
// What the kernels between the projections cannot do without for the batch.
backend::Work mix_work(const Sizes& sizes, const state::BatchView& batch);

}  // namespace heddle::mixers::gated_delta_net
