#include "model/weights.h"

#include <cmath>
#include <cstring>

namespace heddle::model {
namespace {

std::vector<int64_t> squeezed(const std::vector<int64_t>& shape) {
  std::vector<int64_t> result;
  for (const int64_t size : shape) {
    if (size != 1) result.push_back(size);
  }
  return result;
}

// Rows of heads of `width` whose first `rotary` rows are pairs (2i, 2i + 1): the order that makes
// them pairs (i, i + rotary / 2).
std::vector<int32_t> half_split_order(int64_t rows, int64_t width, int64_t rotary) {
  std::vector<int32_t> order(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / width * width;
    int64_t i = row - head;
    if (i < rotary) i = i < rotary / 2 ? 2 * i : 2 * (i - rotary / 2) + 1;
    order[static_cast<size_t>(row)] = static_cast<int32_t>(head + i);
  }
  return order;
}

class CheckpointWeights : public Weights {
 public:
  explicit CheckpointWeights(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  Result<ops::MatrixSource> matrix(Owner owner, const sublayer::WeightSpec& weight) override {
    const std::vector<int64_t>& shape = weight.shape;
    HEDDLE_TRY(const Checkpoint::Found found, locate(owner, weight));
    if (shape.size() != 2) return fail("weight {} is not a matrix", weight.name);
    if (found.transform == Transform::plus_one || found.transform == Transform::minus_exp)
      return fail("tensor {}: a matrix takes no transformation of values", found.name);
    ops::MatrixSource source;
    source.data = aligned(*found.tensor);
    source.mapped = source.data == found.tensor->data;
    source.dtype = found.tensor->dtype;
    source.rows = shape[0];
    source.cols = shape[1];
    if (found.transform != Transform::none)
      source.row_order = adjacent_order(owner, found, shape[0]);
    return source;
  }

  Result<std::vector<float>> values(Owner owner, const sublayer::WeightSpec& weight) override {
    HEDDLE_TRY(const Checkpoint::Found found, locate(owner, weight));
    std::vector<float> values(static_cast<size_t>(found.tensor->elements()));
    ops::dequantize(found.tensor->dtype, aligned(*found.tensor),
                    static_cast<int64_t>(values.size()), values.data());
    switch (found.transform) {
      case Transform::none:
        break;
      case Transform::plus_one:
        for (float& value : values) value += 1.0f;
        break;
      case Transform::minus_exp:
        for (float& value : values)
          value = static_cast<float>(-std::exp(static_cast<double>(value)));
        break;
      case Transform::adjacent_q:
      case Transform::adjacent_k: {
        const auto order = adjacent_order(owner, found, static_cast<int64_t>(values.size()));
        const std::vector<float> stored = values;
        for (size_t i = 0; i < order.size(); ++i) values[i] = stored[static_cast<size_t>(order[i])];
        break;
      }
    }
    return values;
  }

  // Finds a weight and compares its shape and type.
  Status check(Owner owner, const sublayer::WeightSpec& weight) {
    HEDDLE_TRY([[maybe_unused]] const Checkpoint::Found found, locate(owner, weight));
    used_.clear();
    return {};
  }

  void release() override {
    for (const TensorInfo* tensor : used_) checkpoint_.drop(*tensor);
    used_.clear();
    copies_.clear();
  }
  Hash128 hash() const override { return checkpoint_.hash(); }

 private:
  Result<Checkpoint::Found> locate(Owner owner, const sublayer::WeightSpec& weight) {
    HEDDLE_TRY(const Checkpoint::Found found, checkpoint_.find(owner.layer, weight.name));
    if (squeezed(found.tensor->shape) != squeezed(weight.shape))
      return fail("{}: tensor {} has shape {}, expected {}", checkpoint_.path(), found.name,
                  shape_text(found.tensor->shape), shape_text(weight.shape));
    const DType type = found.tensor->dtype;
    if (!dtype_info(type).quantized && type != DType::f32 && type != DType::f16 &&
        type != DType::bf16)
      return fail("{}: tensor {} has type {}, expected floating point or a quantised format",
                  checkpoint_.path(), found.name, dtype_info(type).name);
    used_.push_back(found.tensor);
    return found;
  }

  std::vector<int32_t> adjacent_order(Owner owner, const Checkpoint::Found& found,
                                      int64_t rows) const {
    const LayerSpec& layer = checkpoint_.spec().layers[static_cast<size_t>(owner.layer)];
    const sublayer::Params& params = layer.sub[owner.sub].params;
    const int64_t heads =
        params.integer_or(found.transform == Transform::adjacent_q ? "heads" : "kv_heads", 1);
    return half_split_order(rows, rows / heads, params.integer_or("rope_rotary", 0));
  }

  // Files may lay out values at odd addresses; kernels read them as numbers.
  const std::byte* aligned(const TensorInfo& tensor) {
    const int64_t unit = dtype_info(tensor.dtype).quantized ? 2 : dtype_bytes(tensor.dtype, 1);
    if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(unit) == 0)
      return tensor.data;
    copies_.emplace_back(tensor.data, tensor.data + tensor.bytes);
    return copies_.back().data();
  }

  const Checkpoint& checkpoint_;
  std::vector<const TensorInfo*> used_;
  std::vector<std::vector<std::byte>> copies_;
};

}  // namespace

std::unique_ptr<Weights> checkpoint_weights(const Checkpoint& checkpoint) {
  return std::make_unique<CheckpointWeights>(checkpoint);
}

Status check_weights(const Checkpoint& checkpoint, const ModelDesign& design) {
  CheckpointWeights weights(checkpoint);
  for (const sublayer::WeightSpec& weight : model_weights(checkpoint.spec()))
    HEDDLE_TRY_STATUS(weights.check({}, weight));
  for (const SubLayerDesign& sub : design.sub)
    for (const sublayer::WeightSpec& weight : sub.weights)
      HEDDLE_TRY_STATUS(weights.check(sub.owner, weight));
  return {};
}

namespace {

int64_t held_bytes(const sublayer::WeightSpec& weight, DType stored, const LoadOptions& options) {
  const int64_t elements = weight.elements();
  if (!weight.matrix || options.full_precision) return elements * 4;
  const DTypeInfo& wanted = dtype_info(options.quantize);
  const bool requantised = wanted.quantized && !dtype_info(stored).quantized &&
                           weight.shape.back() % wanted.block_elements == 0;
  return dtype_bytes(requantised ? options.quantize : stored, elements);
}

}  // namespace

Result<int64_t> weight_bytes(const Checkpoint& checkpoint, const ModelDesign& design,
                             const LoadOptions& options) {
  int64_t bytes = 0;
  const auto add = [&](Owner owner, const std::vector<sublayer::WeightSpec>& weights) -> Status {
    for (const sublayer::WeightSpec& weight : weights) {
      HEDDLE_TRY(const Checkpoint::Found found, checkpoint.find(owner.layer, weight.name));
      bytes += held_bytes(weight, found.tensor->dtype, options);
    }
    return {};
  };
  HEDDLE_TRY_STATUS(add({}, model_weights(checkpoint.spec())));
  for (const SubLayerDesign& sub : design.sub) HEDDLE_TRY_STATUS(add(sub.owner, sub.weights));
  return bytes;
}

}  // namespace heddle::model
