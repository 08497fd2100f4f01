#include "sublayer/random_weights.h"

namespace heddle::sublayer {

RandomWeights::RandomWeights(const Design& design, uint64_t seed, const Case& from) {
  Rng rng(seed);
  for (WeightSpec spec : design.weights()) {
    if (const auto init = from.init.find(spec.name); init != from.init.end())
      spec.init = init->second;
    Weight& weight = weights_[spec.name];
    weight.values = draw(spec, rng);
    weight.shape = spec.shape;
    if (!spec.matrix || from.weights == DType::f32) continue;
    if (spec.shape.back() % dtype_info(from.weights).block_elements != 0) continue;
    weight.dtype = from.weights;
    weight.stored.resize(static_cast<size_t>(dtype_bytes(from.weights, spec.elements())));
    ops::quantize(from.weights, weight.values.data(), spec.elements(), weight.stored.data());
  }
}

Result<const RandomWeights::Weight*> RandomWeights::find(std::string_view name) const {
  const auto it = weights_.find(name);
  if (it == weights_.end()) return fail("the design declares no weight {}", name);
  return &it->second;
}

Result<ops::MatrixSource> RandomWeights::matrix(std::string_view name) {
  HEDDLE_TRY(const Weight* weight, find(name));
  if (weight->shape.size() != 2) return fail("weight {} is not a matrix", name);
  ops::MatrixSource source;
  source.data = weight->stored.empty() ? reinterpret_cast<const std::byte*>(weight->values.data())
                                       : weight->stored.data();
  source.dtype = weight->dtype;
  source.rows = weight->shape[0];
  source.cols = weight->shape[1];
  return source;
}

Result<std::vector<float>> RandomWeights::values(std::string_view name) {
  HEDDLE_TRY(const Weight* weight, find(name));
  return weight->values;
}

}  // namespace heddle::sublayer
