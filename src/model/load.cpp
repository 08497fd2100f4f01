// Building a model: designs from the ModelSpec, then weights bound and packed layer by layer, so
// that only one layer's file pages are resident beside the packed weights.
#include "base/check.h"
#include "model/model.h"
#include "model/presets.h"
#include "model/weights.h"
#include "sublayer/kind_table.h"

namespace heddle::model {
namespace {

using Ropes = std::vector<std::pair<ops::RopeSpec, std::shared_ptr<const ops::Rope>>>;

// What a model's sub-layers share while they are bound.
struct Shared {
  Weights& weights;
  const LoadOptions& options;
  Ropes ropes;
  int64_t matrices = 0;
  int64_t quantized = 0;  // of them, those that multiply in int8

  Result<ops::MatrixSource> matrix(Owner owner, const sublayer::WeightSpec& weight) {
    HEDDLE_TRY(ops::MatrixSource source, weights.matrix(owner, weight));
    ++matrices;
    quantized += !options.full_precision &&
                 (dtype_info(source.dtype).quantized || dtype_info(options.quantize).quantized);
    return source;
  }
};

// One sub-layer's weights under its own names.
class SubLayerSource : public sublayer::WeightSource {
 public:
  SubLayerSource(Shared& shared, const SubLayerDesign& design) : shared_(shared), design_(design) {}
  Result<ops::MatrixSource> matrix(std::string_view name) override {
    HEDDLE_TRY(const sublayer::WeightSpec* weight, find(name));
    return shared_.matrix(design_.owner, *weight);
  }
  Result<std::vector<float>> values(std::string_view name) override {
    HEDDLE_TRY(const sublayer::WeightSpec* weight, find(name));
    return shared_.weights.values(design_.owner, *weight);
  }
  Result<std::shared_ptr<const ops::Rope>> rope(const ops::RopeSpec& spec) override {
    for (const auto& [known, tables] : shared_.ropes) {
      if (known == spec) return tables;
    }
    HEDDLE_TRY(auto tables, sublayer::WeightSource::rope(spec));
    shared_.ropes.emplace_back(spec, tables);
    return tables;
  }

 private:
  Result<const sublayer::WeightSpec*> find(std::string_view name) const {
    for (const sublayer::WeightSpec& weight : design_.weights) {
      if (weight.name == name) return &weight;
    }
    return fail("the sub-layer {} of layer {} declares no weight {}", design_.spec->kind,
                design_.owner.layer, name);
  }
  Shared& shared_;
  const SubLayerDesign& design_;
};

}  // namespace

float loaded_embed_scale(const ModelSpec& spec, DType stored, const LoadOptions& options) {
  const bool as_stored = !options.full_precision && options.quantize == DType::f32;
  if (!spec.embed_scale_rounded || !as_stored) return spec.embed_scale;
  if (stored == DType::bf16) return bf16_to_f32(f32_to_bf16(spec.embed_scale));
  if (stored == DType::f16) return f16_to_f32(f32_to_f16(spec.embed_scale));
  return spec.embed_scale;
}

Result<sublayer::StatePrecision> state_precision(const LoadOptions& options) {
  sublayer::StatePrecision precision;
  if (options.full_precision) precision.records = DType::f32;
  if (options.kv_dtype.empty()) return precision;
  const auto records = dtype_from_name(options.kv_dtype);
  if (!records || (*records != DType::bf16 && *records != DType::f32))
    return fail("kv dtype {}: expected bf16 or f32", options.kv_dtype);
  precision.records = *records;
  return precision;
}

Result<std::unique_ptr<Model>> Model::from_weights(const ModelSpec& spec, Weights& weights,
                                                   const LoadOptions& options, ThreadPool& pool) {
  std::unique_ptr<Model> model(new Model);
  model->spec_ = spec;
  HEDDLE_TRY(const sublayer::StatePrecision precision, state_precision(options));
  HEDDLE_TRY(model->design_, make_design(model->spec_, precision));
  // First, while nothing is resident: it looks at pages all over the file.
  const Hash128 base = weights.hash();
  model->memory_ = std::make_unique<backend::WeightMemory>();
  const ops::PackOptions pack{options.full_precision, options.quantize, model->memory_.get()};
  Shared shared{weights, options};
  for (const sublayer::WeightSpec& weight : model_weights(spec)) {
    if (!weight.matrix) {
      HEDDLE_TRY(std::vector<float> norm, weights.values({}, weight));
      for (float& value : norm) value *= spec.logit_scale;
      HEDDLE_TRY(model->final_norm_, tensor::Vector::of(norm, *pack.memory));
      continue;
    }
    HEDDLE_TRY(const ops::MatrixSource source, shared.matrix({}, weight));
    HEDDLE_TRY(ops::PackedMatrix packed, ops::pack(pool, {&source, 1}, pack));
    if (weight.name == "embed")
      model->spec_.embed_scale = loaded_embed_scale(spec, source.dtype, options);
    (weight.name == "embed" ? model->embed_ : model->head_) = std::move(packed);
    weights.release();
  }
  const int64_t layers = std::ssize(spec.layers);
  for (const SubLayerDesign& design : model->design_.sub) {
    SubLayerSource source(shared, design);
    Bound bound;
    HEDDLE_TRY(bound.body, design.design->bind(pool, source, pack));
    if (!design.spec->pre_norm.empty()) {
      HEDDLE_TRY(bound.pre_norm, source.vector(design.spec->pre_norm, *pack.memory));
    }
    if (!design.spec->post_norm.empty()) {
      HEDDLE_TRY(bound.post_norm, source.vector(design.spec->post_norm, *pack.memory));
    }
    model->sub_.push_back(std::move(bound));
    weights.release();
    const int64_t layer = design.owner.layer;
    const bool last = design.owner.sub + 1 == spec.layers[static_cast<size_t>(layer)].sub.size();
    if (options.progress && last) options.progress(layer + 1, layers);
  }
  model->quantized_ = 2 * shared.quantized > shared.matrices;
  const std::string how =
      fmt::format("{:x} {:x} {} {} {}", base.low, base.high, options.full_precision,
                  dtype_info(options.quantize).name, dtype_info(precision.records).name);
  model->hash_ = hash128(std::as_bytes(std::span(how)));
  return model;
}

Result<std::unique_ptr<Model>> Model::load(const Checkpoint& checkpoint, const LoadOptions& options,
                                           ThreadPool& pool) {
  const std::unique_ptr<Weights> weights = checkpoint_weights(checkpoint);
  return from_weights(checkpoint.spec(), *weights, options, pool);
}

Result<std::unique_ptr<Model>> Model::load(const std::string& path, const LoadOptions& options,
                                           ThreadPool& pool) {
  HEDDLE_TRY(const Checkpoint checkpoint, Checkpoint::open(path));
  return load(checkpoint, options, pool);
}

Result<std::unique_ptr<Model>> Model::preset(const std::string& preset, const LoadOptions& options,
                                             ThreadPool& pool) {
  HEDDLE_TRY(const Preset parsed, parse_preset(preset));
  constexpr uint64_t kSeed = 1;
  const std::unique_ptr<Weights> weights = random_weights(parsed.spec, parsed.dtype, kSeed, pool);
  return from_weights(parsed.spec, *weights, options, pool);
}

}  // namespace heddle::model
