#include "model/family_common.h"

#include <cmath>

namespace heddle::model {
namespace {

constexpr int64_t kMaxHeads = 65536;
constexpr int64_t kMaxHeadWidth = 65536;
constexpr int64_t kMaxLayers = 4096;

Status check_shape(const Config& config, const AttentionShape& shape) {
  if (shape.heads > kMaxHeads || shape.kv_heads > kMaxHeads || shape.head_dim > kMaxHeadWidth ||
      shape.v_head_dim > kMaxHeadWidth)
    return fail("{}: {} heads of width {}: too large", config.name(), shape.heads, shape.head_dim);
  if (shape.heads % shape.kv_heads != 0)
    return fail("{}: {} query heads are no multiple of {} key heads", config.name(), shape.heads,
                shape.kv_heads);
  return {};
}

// Where config.json may keep a rotary parameter, the most specific place first.
class RopeKeys {
 public:
  RopeKeys(const Config& config, std::string_view layer_type)
      : config_(config),
        places_{fmt::format("rope_parameters.{}.", layer_type), "rope_parameters.", "rope_scaling.",
                ""} {}
  std::string find(std::string_view key) const {
    for (const std::string& place : places_) {
      std::string full = place + std::string(key);
      if (config_.has(full)) return full;
    }
    return std::string(key);
  }
  Result<double> number(std::string_view key, double fallback) const {
    return config_.number_or(find(key), fallback);
  }
  // "type" and "rope_type" at the top level mean something else, so only the nested places count.
  Result<std::string> type() const {
    for (const std::string& place : places_) {
      if (place.empty()) continue;
      for (const char* key : {"rope_type", "type"}) {
        if (config_.has(place + key)) return config_.text(place + key);
      }
    }
    return std::string("default");
  }

 private:
  const Config& config_;
  std::vector<std::string> places_;
};

Status check_rotary(const Config& config, int64_t rotary, int64_t head_dim) {
  if (rotary < 0 || rotary > head_dim || rotary % 2 != 0)
    return fail("{}: {} rotary dims of {}, expected an even number of them", config.name(), rotary,
                head_dim);
  return {};
}

}  // namespace

LayerSpec decoder_layer(const ModelSpec& spec, std::string_view mixer, sublayer::Params params,
                        int64_t ffn_width, bool post_norms, std::string_view activation) {
  SubLayerSpec mix, ffn;
  mix.kind = mixer;
  mix.params = std::move(params);
  mix.pre_norm = "pre_mixer_norm";
  ffn.kind = "gated";
  ffn.params = sublayer::Params(
      {{"d_model", spec.d_model}, {"width", ffn_width}, {"activation", std::string(activation)}});
  ffn.pre_norm = "pre_ffn_norm";
  if (post_norms) {
    mix.post_norm = "post_mixer_norm";
    ffn.post_norm = "post_ffn_norm";
  }
  LayerSpec layer;
  layer.sub = {std::move(mix), std::move(ffn)};
  return layer;
}

sublayer::Params attention_params(const AttentionShape& shape, float norm_eps) {
  return sublayer::Params({
      {"d_model", shape.d_model},
      {"heads", shape.heads},
      {"kv_heads", shape.kv_heads},
      {"head_dim", shape.head_dim},
      {"v_head_dim", shape.v_head_dim},
      {"scale", 1.0 / std::sqrt(static_cast<double>(shape.head_dim))},
      {"norm_eps", static_cast<double>(norm_eps)},
  });
}

Result<AttentionShape> attention_shape(const Config& config) {
  AttentionShape shape;
  HEDDLE_TRY(shape.d_model, config.size("hidden_size"));
  HEDDLE_TRY(shape.heads, config.size("num_attention_heads"));
  HEDDLE_TRY(shape.kv_heads, config.size_or("num_key_value_heads", shape.heads));
  HEDDLE_TRY(shape.head_dim, config.size_or("head_dim", shape.d_model / shape.heads));
  if (shape.head_dim < 1) return fail("{}: more heads than dims", config.name());
  shape.v_head_dim = shape.head_dim;
  HEDDLE_TRY_STATUS(check_shape(config, shape));
  return shape;
}

Result<AttentionShape> gguf_attention_shape(const Config& metadata, int64_t layer) {
  AttentionShape shape;
  HEDDLE_TRY(shape.d_model, metadata.size("embedding_length"));
  HEDDLE_TRY(shape.heads, metadata.size("attention.head_count"));
  HEDDLE_TRY(const std::vector<int64_t> kv, metadata.integers("attention.head_count_kv"));
  shape.kv_heads = shape.heads;
  if (kv.size() == 1) shape.kv_heads = kv[0];
  if (kv.size() > 1) {
    if (layer >= static_cast<int64_t>(kv.size()))
      return fail("{}: attention.head_count_kv has {} entries, none for layer {}", metadata.name(),
                  kv.size(), layer);
    shape.kv_heads = kv[static_cast<size_t>(layer)];
  }
  if (shape.kv_heads < 1)
    return fail("{}: layer {} has {} key heads", metadata.name(), layer, shape.kv_heads);
  HEDDLE_TRY(shape.head_dim, metadata.size_or("attention.key_length", shape.d_model / shape.heads));
  if (shape.head_dim < 1) return fail("{}: more heads than dims", metadata.name());
  HEDDLE_TRY(shape.v_head_dim, metadata.size_or("attention.value_length", shape.head_dim));
  HEDDLE_TRY_STATUS(check_shape(metadata, shape));
  return shape;
}

Status set_rope(const Config& config, std::string_view layer_type, const AttentionShape& shape,
                double default_theta, sublayer::Params& params) {
  const RopeKeys keys(config, layer_type);
  HEDDLE_TRY(const double theta, keys.number("rope_theta", default_theta));
  HEDDLE_TRY(const double partial, keys.number("partial_rotary_factor", 1.0));
  if (!(partial >= 0 && partial <= 1))
    return fail("{}: partial_rotary_factor is {}, expected 0 to 1", config.name(), partial);
  const auto rotary = static_cast<int64_t>(static_cast<double>(shape.head_dim) * partial);
  HEDDLE_TRY_STATUS(check_rotary(config, rotary, shape.head_dim));
  params.set("rope_rotary", rotary).set("rope_theta", theta);
  HEDDLE_TRY(const std::string type, keys.type());
  if (type == "default" || type == "mrope") return {};
  if (type != "linear" && type != "llama3" && type != "yarn")
    return fail("{}: rope type {} is unknown; expected default, linear, llama3 or yarn",
                config.name(), type);
  HEDDLE_TRY(const double context, config.number_or("max_position_embeddings", 0));
  HEDDLE_TRY(const double factor, keys.number("factor", 1));
  HEDDLE_TRY(const double low, keys.number("low_freq_factor", 1));
  HEDDLE_TRY(const double high, keys.number("high_freq_factor", 4));
  HEDDLE_TRY(const double original, keys.number("original_max_position_embeddings", context));
  HEDDLE_TRY(const double fast, keys.number("beta_fast", 32));
  HEDDLE_TRY(const double slow, keys.number("beta_slow", 1));
  HEDDLE_TRY(const bool truncate, config.flag_or(keys.find("truncate"), true));
  HEDDLE_TRY(const double attention, keys.number("attention_factor", 0));
  params.set("rope_scaling", type)
      .set("rope_factor", factor)
      .set("rope_low_freq_factor", low)
      .set("rope_high_freq_factor", high)
      .set("rope_original_context", original)
      .set("rope_beta_fast", fast)
      .set("rope_beta_slow", slow)
      .set("rope_truncate", truncate)
      .set("rope_attention_factor", attention);
  return {};
}

Status set_gguf_rope(const Config& metadata, const AttentionShape& shape, double default_theta,
                     sublayer::Params& params) {
  HEDDLE_TRY(const double theta, metadata.number_or("rope.freq_base", default_theta));
  HEDDLE_TRY(const int64_t rotary, metadata.integer_or("rope.dimension_count", shape.head_dim));
  HEDDLE_TRY_STATUS(check_rotary(metadata, rotary, shape.head_dim));
  params.set("rope_rotary", rotary).set("rope_theta", theta);
  HEDDLE_TRY(const std::string type, metadata.text_or("rope.scaling.type", "none"));
  if (type == "none") return {};
  if (type != "linear" && type != "yarn")
    return fail("{}: rope.scaling.type is {}, expected none, linear or yarn", metadata.name(),
                type);
  HEDDLE_TRY(const double factor, metadata.number_or("rope.scaling.factor", 1));
  HEDDLE_TRY(const double context, metadata.number_or("context_length", 0));
  HEDDLE_TRY(const double original,
             metadata.number_or("rope.scaling.original_context_length", context));
  HEDDLE_TRY(const double fast, metadata.number_or("rope.scaling.yarn_beta_fast", 32));
  HEDDLE_TRY(const double slow, metadata.number_or("rope.scaling.yarn_beta_slow", 1));
  HEDDLE_TRY(const double attention, metadata.number_or("rope.scaling.yarn_attn_factor", 0));
  params.set("rope_scaling", type)
      .set("rope_factor", factor)
      .set("rope_original_context", original)
      .set("rope_beta_fast", fast)
      .set("rope_beta_slow", slow)
      .set("rope_attention_factor", attention);
  return {};
}

Result<ModelSpec> common_spec(const Config& config, const TensorTable& tensors,
                              std::string_view eps_key, bool tied_by_default) {
  ModelSpec spec;
  HEDDLE_TRY(spec.name, config.text_or("_name_or_path", ""));
  HEDDLE_TRY(spec.vocab_size, config.size("vocab_size"));
  HEDDLE_TRY(spec.d_model, config.size("hidden_size"));
  HEDDLE_TRY(spec.context_length, config.size_or("max_position_embeddings", 2048));
  HEDDLE_TRY(const double eps, config.number_or(eps_key, 1e-6));
  spec.norm_eps = static_cast<float>(eps);
  HEDDLE_TRY(spec.tied, config.flag_or("tie_word_embeddings", tied_by_default));
  for (const char* prefix :
       {"model.", "model.language_model.", "language_model.model.", "language_model."}) {
    if (tensors.has(std::string(prefix) + "embed_tokens.weight")) spec.tensor_prefix = prefix;
    if (!spec.tensor_prefix.empty()) break;
  }
  if (spec.tensor_prefix.empty())
    return fail("{}: the checkpoint has no tensor model.embed_tokens.weight", config.name());
  return spec;
}

Result<ModelSpec> gguf_common_spec(const Config& metadata, const TensorTable& tensors) {
  ModelSpec spec;
  HEDDLE_TRY(spec.name, metadata.text_or("general.name", ""));
  HEDDLE_TRY(spec.d_model, metadata.size("embedding_length"));
  HEDDLE_TRY(spec.context_length, metadata.size_or("context_length", 2048));
  HEDDLE_TRY(const double eps, metadata.number("attention.layer_norm_rms_epsilon"));
  spec.norm_eps = static_cast<float>(eps);
  const TensorInfo* embed = tensors.find("token_embd.weight");
  if (embed == nullptr || embed->shape.size() != 2)
    return fail("{}: the file has no matrix token_embd.weight; is it a vocabulary only?",
                metadata.name());
  spec.vocab_size = embed->shape[0];
  spec.tied = !tensors.has("output.weight");
  return spec;
}

Result<std::vector<std::string>> layer_types(const Config& config,
                                             std::string_view (*fallback)(int64_t layer,
                                                                          int64_t period),
                                             int64_t period) {
  HEDDLE_TRY(const int64_t layers, layer_count(config, "num_hidden_layers"));
  HEDDLE_TRY(std::vector<std::string> types, config.texts("layer_types"));
  if (types.empty()) {
    for (int64_t i = 0; i < layers; ++i) types.emplace_back(fallback(i, period));
  }
  if (static_cast<int64_t>(types.size()) != layers)
    return fail("{}: layer_types has {} entries, but there are {} layers", config.name(),
                types.size(), layers);
  return types;
}

Result<int64_t> layer_count(const Config& config, std::string_view key) {
  HEDDLE_TRY(const int64_t layers, config.size(key));
  if (layers > kMaxLayers)
    return fail("{}: {} is {}, expected at most {}", config.name(), key, layers, kMaxLayers);
  return layers;
}

}  // namespace heddle::model
