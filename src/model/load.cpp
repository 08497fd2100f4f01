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

// One layer's weights under the mixer's names.
class LayerSource : public sublayer::WeightSource {
 public:
  LayerSource(Weights& weights, int64_t layer, const std::vector<sublayer::WeightSpec>& specs,
              Ropes& ropes)
      : weights_(weights), layer_(layer), specs_(specs), ropes_(ropes) {}
  Result<ops::MatrixSource> matrix(std::string_view name) override {
    HEDDLE_TRY(const sublayer::WeightSpec* spec, find(name));
    return weights_.matrix(layer_, name, spec->shape);
  }
  Result<std::vector<float>> values(std::string_view name) override {
    HEDDLE_TRY(const sublayer::WeightSpec* spec, find(name));
    return weights_.values(layer_, name, spec->shape);
  }

  Result<std::shared_ptr<const ops::Rope>> rope(const ops::RopeSpec& spec) override {
    for (const auto& [known, tables] : ropes_) {
      if (known == spec) return tables;
    }
    HEDDLE_TRY(auto tables, sublayer::WeightSource::rope(spec));
    ropes_.emplace_back(spec, tables);
    return tables;
  }

 private:
  Result<const sublayer::WeightSpec*> find(std::string_view name) const {
    for (const sublayer::WeightSpec& spec : specs_) {
      if (spec.name == name) return &spec;
    }
    return fail("the mixer of layer {} declares no weight {}", layer_, name);
  }
  Weights& weights_;
  int64_t layer_;
  const std::vector<sublayer::WeightSpec>& specs_;
  Ropes& ropes_;
};

Result<ops::PackedMatrix> pack_one(Weights& weights, int64_t layer, std::string_view name,
                                   const std::vector<int64_t>& shape,
                                   const ops::PackOptions& options, ThreadPool& pool) {
  HEDDLE_TRY(const ops::MatrixSource source, weights.matrix(layer, name, shape));
  return ops::pack(pool, {&source, 1}, options);
}

}  // namespace

float loaded_embed_scale(const ModelSpec& spec, DType stored, const LoadOptions& options) {
  const bool as_stored = !options.full_precision && options.quantize == DType::f32;
  if (!spec.embed_scale_rounded || !as_stored) return spec.embed_scale;
  if (stored == DType::bf16) return bf16_to_f32(f32_to_bf16(spec.embed_scale));
  if (stored == DType::f16) return f16_to_f32(f32_to_f16(spec.embed_scale));
  return spec.embed_scale;
}

std::string kv_dtype_of(const LoadOptions& options) {
  if (!options.kv_dtype.empty()) return options.kv_dtype;
  return options.full_precision ? "f32" : "bf16";
}

Result<ModelDesign> make_design(const ModelSpec& spec, const std::string& kv_dtype) {
  if (kv_dtype != "bf16" && kv_dtype != "f32")
    return fail("kv dtype {}: expected bf16 or f32", kv_dtype);
  ModelDesign result;
  std::vector<std::vector<state::StatePart>> parts;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    HEDDLE_TRY(const sublayer::Kind* kind, sublayer::find_kind(spec.layers[i].mixer));
    sublayer::Params params = spec.layers[i].params;
    params.set("kv_dtype", kv_dtype);
    auto design = kind->design(params);
    if (!design) return fail("layer {} ({}): {}", i, kind->name, design.error().message);
    parts.push_back((*design)->state_parts());
    result.mixers.push_back(std::move(*design));
  }
  HEDDLE_TRY(result.layout, state::StateLayout::make(std::move(parts)));
  return result;
}

Result<std::unique_ptr<Model>> Model::from_weights(const ModelSpec& spec, Weights& weights,
                                                   const LoadOptions& options, ThreadPool& pool) {
  std::unique_ptr<Model> model(new Model);
  model->spec_ = spec;
  HEDDLE_TRY(model->design_, make_design(spec, kv_dtype_of(options)));
  // First, while nothing is resident: it looks at pages all over the file.
  const Hash128 base = weights.hash();
  model->memory_ = std::make_unique<backend::WeightMemory>();
  const ops::PackOptions pack{options.full_precision, options.quantize, model->memory_.get()};
  Ropes ropes;
  const int64_t width = spec.d_model;
  const std::vector<int64_t> vector = {width};
  HEDDLE_TRY(const ops::MatrixSource embed, weights.matrix(-1, "embed", {spec.vocab_size, width}));
  HEDDLE_TRY(model->embed_, ops::pack(pool, {&embed, 1}, pack));
  model->spec_.embed_scale = loaded_embed_scale(spec, embed.dtype, options);
  weights.release();
  if (!spec.tied) {
    HEDDLE_TRY(model->head_, pack_one(weights, -1, "head", {spec.vocab_size, width}, pack, pool));
    weights.release();
  }
  HEDDLE_TRY(model->final_norm_, weights.values(-1, "final_norm", vector));
  const int64_t layers = std::ssize(spec.layers);
  for (int64_t i = 0; i < layers; ++i) {
    const LayerSpec& layer_spec = spec.layers[static_cast<size_t>(i)];
    const sublayer::Design& design = *model->design_.mixers[static_cast<size_t>(i)];
    const std::vector<sublayer::WeightSpec> specs = design.weights();
    LayerSource source(weights, i, specs, ropes);
    Layer layer;
    HEDDLE_TRY(layer.mixer, design.bind(pool, source, pack));
    HEDDLE_TRY(layer.pre_mixer_norm, weights.values(i, "pre_mixer_norm", vector));
    HEDDLE_TRY(layer.pre_ffn_norm, weights.values(i, "pre_ffn_norm", vector));
    if (layer_spec.post_norms) {
      HEDDLE_TRY(layer.post_mixer_norm, weights.values(i, "post_mixer_norm", vector));
      HEDDLE_TRY(layer.post_ffn_norm, weights.values(i, "post_ffn_norm", vector));
    }
    const int64_t ffn = layer_spec.ffn.width;
    HEDDLE_TRY(ops::MatrixSource gate, weights.matrix(i, "ffn_gate", {ffn, width}));
    HEDDLE_TRY(ops::MatrixSource up, weights.matrix(i, "ffn_up", {ffn, width}));
    model->quantized_ = !options.full_precision && (dtype_info(gate.dtype).quantized ||
                                                    dtype_info(options.quantize).quantized);
    const ops::MatrixSource gate_up[] = {std::move(gate), std::move(up)};
    HEDDLE_TRY(layer.gate_up, ops::pack(pool, gate_up, pack));
    HEDDLE_TRY(layer.down, pack_one(weights, i, "ffn_down", {width, ffn}, pack, pool));
    model->layers_.push_back(std::move(layer));
    weights.release();
    if (options.progress) options.progress(i + 1, layers);
  }
  const std::string how =
      fmt::format("{:x} {:x} {} {} {}", base.low, base.high, options.full_precision,
                  dtype_info(options.quantize).name, kv_dtype_of(options));
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
