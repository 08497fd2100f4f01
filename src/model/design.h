#pragma once
// The designs of a model's sub-layers: all that loader, plans and state need to know of a model
// without its weights.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/spec.h"
#include "state/layout.h"
#include "sublayer/sublayer.h"

namespace heddle::model {

struct SubLayerDesign {
  Owner owner;
  const SubLayerSpec* spec = nullptr;
  std::unique_ptr<sublayer::Design> design;
  std::vector<sublayer::WeightSpec> weights;  // the design's and those of the norms
  int64_t first_part = 0;  // its state: entries[first_part .. first_part + parts) of the layout
  int64_t parts = 0;
};

struct ModelDesign {
  std::vector<SubLayerDesign> sub;  // of all layers, in order; at least one keeps state
  state::StateLayout layout;

  // Past the last sub-layer that keeps state.
  size_t stateful_end() const;
  // Past the sub-layers in parallel of which `first` is the first.
  size_t group_end(size_t first) const;
  size_t largest_group() const;
};

// `spec` must outlive the result.
Result<ModelDesign> make_design(const ModelSpec& spec, const sublayer::StatePrecision& precision);

// The weights outside the sub-layers: "embed", "head" unless tied, "final_norm".
std::vector<sublayer::WeightSpec> model_weights(const ModelSpec& spec);
// A norm of the model's width.
sublayer::WeightSpec norm_weight(const ModelSpec& spec, const std::string& name);

}  // namespace heddle::model
