#include "model/design.h"

#include <algorithm>

#include "sublayer/kind_table.h"

namespace heddle::model {
namespace {

using Parts = std::vector<std::vector<state::StatePart>>;  // [layers]

// The state parts of a layer, whose sub-layers are those from `first` on; `before`: parts of the
// layers before it. Where several of them keep state, their kinds tell the parts apart.
std::vector<state::StatePart> parts_of(size_t first, int64_t before, ModelDesign& result) {
  int64_t stateful = 0;
  for (size_t i = first; i < result.sub.size(); ++i)
    stateful += !result.sub[i].design->state_parts().empty();
  std::vector<state::StatePart> parts;
  for (size_t i = first; i < result.sub.size(); ++i) {
    SubLayerDesign& sub = result.sub[i];
    sub.first_part = before + std::ssize(parts);
    for (state::StatePart part : sub.design->state_parts()) {
      if (stateful > 1) part.name = sub.spec->kind + "." + part.name;
      parts.push_back(std::move(part));
    }
    sub.parts = before + std::ssize(parts) - sub.first_part;
  }
  return parts;
}

Status add_layer(const ModelSpec& spec, int64_t index, const sublayer::StatePrecision& precision,
                 ModelDesign& result, Parts& parts) {
  const LayerSpec& layer = spec.layers[static_cast<size_t>(index)];
  const size_t first = result.sub.size();
  std::vector<std::string> names;  // of the weights so far
  for (size_t i = 0; i < layer.sub.size(); ++i) {
    SubLayerDesign sub;
    sub.owner = {index, i};
    sub.spec = &layer.sub[i];
    HEDDLE_TRY(const sublayer::Kind* kind, sublayer::find_kind(sub.spec->kind));
    auto design = sublayer::make_design(*kind, sub.spec->params, precision);
    if (!design) return fail("layer {} ({}): {}", index, kind->name, design.error().message);
    sub.design = std::move(*design);
    sub.weights = sub.design->weights();
    for (const sublayer::WeightSpec& weight : sub.weights) {
      if (std::find(names.begin(), names.end(), weight.name) != names.end())
        return fail("layer {}: two of its sub-layers have a weight {}", index, weight.name);
      names.push_back(weight.name);
    }
    for (const std::string* norm : {&sub.spec->pre_norm, &sub.spec->post_norm})
      if (!norm->empty()) sub.weights.push_back(norm_weight(spec, *norm));
    result.sub.push_back(std::move(sub));
  }
  int64_t before = 0;
  for (const auto& layer_parts : parts) before += std::ssize(layer_parts);
  parts.push_back(parts_of(first, before, result));
  return {};
}

}  // namespace

size_t ModelDesign::stateful_end() const {
  size_t end = sub.size();
  while (end > 0 && sub[end - 1].parts == 0) --end;
  return end;
}

size_t ModelDesign::group_end(size_t first) const {
  size_t end = first + 1;
  while (end < sub.size() && sub[end].spec->parallel) ++end;
  return end;
}

size_t ModelDesign::largest_group() const {
  size_t largest = 0;
  for (size_t first = 0, end; first < sub.size(); first = end) {
    end = group_end(first);
    largest = std::max(largest, end - first);
  }
  return largest;
}

Result<ModelDesign> make_design(const ModelSpec& spec, const sublayer::StatePrecision& precision) {
  ModelDesign result;
  Parts parts;
  for (int64_t i = 0; i < std::ssize(spec.layers); ++i)
    HEDDLE_TRY_STATUS(add_layer(spec, i, precision, result, parts));
  if (result.stateful_end() == 0) return fail("no layer keeps state: tokens would never meet");
  HEDDLE_TRY(result.layout, state::StateLayout::make(std::move(parts)));
  return result;
}

std::vector<sublayer::WeightSpec> model_weights(const ModelSpec& spec) {
  const std::vector<int64_t> table = {spec.vocab_size, spec.d_model};
  std::vector<sublayer::WeightSpec> weights;
  weights.push_back({"embed", table, true, sublayer::Init::normal(0, 1.0 / spec.embed_scale)});
  if (!spec.tied) weights.push_back({"head", table});
  weights.push_back(norm_weight(spec, "final_norm"));
  return weights;
}

sublayer::WeightSpec norm_weight(const ModelSpec& spec, const std::string& name) {
  return {name, {spec.d_model}, false, sublayer::kNormInit};
}

}  // namespace heddle::model
