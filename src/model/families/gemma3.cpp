// Gemma 3, text: five sliding-window layers for each full one, norms on both sides of each block,
// embeddings scaled by sqrt(D). Checkpoints store norms as w for 1 + w; GGUF files hold 1 + w.
#include <cmath>

#include "model/family.h"
#include "model/family_common.h"

namespace heddle::model {
namespace {

constexpr std::string_view kHuggingFace[] = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"};
constexpr std::string_view kGguf[] = {"gemma3"};
constexpr int64_t kPeriod = 6;

constexpr WeightName kOwnWeights[] = {
    {"pre_mixer_norm", "input_layernorm.weight", "attn_norm.weight", Transform::plus_one},
    {"post_mixer_norm", "post_attention_layernorm.weight", "post_attention_norm.weight",
     Transform::plus_one},
    {"pre_ffn_norm", "pre_feedforward_layernorm.weight", "ffn_norm.weight", Transform::plus_one},
    {"post_ffn_norm", "post_feedforward_layernorm.weight", "post_ffw_norm.weight",
     Transform::plus_one},
    {"q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", Transform::plus_one},
    {"k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", Transform::plus_one},
};
constexpr auto kLayerWeights = join_weights(kFfnWeights, kAttentionWeights, kOwnWeights);

std::string_view sliding_but_every(int64_t layer, int64_t period) {
  return (layer + 1) % period == 0 ? "full_attention" : "sliding_attention";
}

void scale_embeddings(ModelSpec& spec) {
  spec.embed_scale = std::sqrt(static_cast<float>(spec.d_model));
  spec.embed_scale_rounded = true;
}

LayerSpec make_layer(const AttentionShape& shape, const ModelSpec& spec, bool full, double scale,
                     int64_t window, int64_t width) {
  sublayer::Params params = attention_params(shape, spec.norm_eps);
  params.set("scale", scale).set("qk_norm", std::string("head"));
  if (!full) params.set("window", window);
  return decoder_layer(spec, full ? "full_attention" : "sliding_window", std::move(params), width,
                       true, "gelu_tanh");
}

Result<ModelSpec> from_config(const Config& config, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, common_spec(config, tensors, "rms_norm_eps", true));
  HEDDLE_TRY(const AttentionShape shape, attention_shape(config));
  HEDDLE_TRY(int64_t period, config.size_or("sliding_window_pattern", kPeriod));
  HEDDLE_TRY(period, config.size_or("_sliding_window_pattern", period));
  HEDDLE_TRY(const std::vector<std::string> types, layer_types(config, sliding_but_every, period));
  HEDDLE_TRY(const double scalar,
             config.number_or("query_pre_attn_scalar", static_cast<double>(shape.head_dim)));
  if (!(scalar > 0)) return fail("{}: query_pre_attn_scalar is not positive", config.name());
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (config.has(key)) return fail("{}: {} is not supported", config.name(), key);
  }
  HEDDLE_TRY(const bool bias, config.flag_or("attention_bias", false));
  if (bias) return fail("{}: attention_bias is not supported", config.name());
  HEDDLE_TRY(const int64_t window, config.size("sliding_window"));
  HEDDLE_TRY(const int64_t width, config.size("intermediate_size"));
  scale_embeddings(spec);
  for (const std::string& type : types) {
    const bool full = type == "full_attention";
    if (!full && type != "sliding_attention")
      return fail("{}: unknown layer type {}", config.name(), type);
    LayerSpec layer = make_layer(shape, spec, full, 1.0 / std::sqrt(scalar), window, width);
    if (full || config.has("rope_parameters.sliding_attention.rope_theta")) {
      HEDDLE_TRY_STATUS(set_rope(config, type, shape, full ? 1e6 : 1e4, layer.sub[0].params));
    } else {  // older configurations: rope_theta and rope_scaling are those of the full layers
      HEDDLE_TRY(const double theta, config.number_or("rope_local_base_freq", 1e4));
      layer.sub[0].params.set("rope_rotary", shape.head_dim).set("rope_theta", theta);
    }
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

Result<ModelSpec> from_gguf(const Config& metadata, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, gguf_common_spec(metadata, tensors));
  HEDDLE_TRY(const AttentionShape shape, gguf_attention_shape(metadata, 0));
  HEDDLE_TRY(const int64_t layers, layer_count(metadata, "block_count"));
  HEDDLE_TRY(const int64_t window, metadata.size("attention.sliding_window"));
  HEDDLE_TRY(const std::vector<int64_t> pattern,
             metadata.integers("attention.sliding_window_pattern"));
  HEDDLE_TRY(const double local_theta, metadata.number_or("rope.freq_base_swa", 1e4));
  HEDDLE_TRY(const int64_t width, metadata.size("feed_forward_length"));
  // The metadata has no query_pre_attn_scalar: the 27B (62 layers) alone deviates from head_dim.
  constexpr int64_t kLayersOf27B = 62;
  const double scalar =
      static_cast<double>(layers == kLayersOf27B ? shape.d_model / shape.heads : shape.head_dim);
  scale_embeddings(spec);
  const int64_t period = pattern.size() == 1 ? pattern[0] : kPeriod;
  if (period < 1 || (pattern.size() > 1 && static_cast<int64_t>(pattern.size()) != layers))
    return fail("{}: attention.sliding_window_pattern does not fit {} layers", metadata.name(),
                layers);
  for (int64_t i = 0; i < layers; ++i) {
    const bool full = pattern.size() > 1 ? pattern[static_cast<size_t>(i)] == 0
                                         : sliding_but_every(i, period) == "full_attention";
    LayerSpec layer = make_layer(shape, spec, full, 1.0 / std::sqrt(scalar), window, width);
    if (full) {
      HEDDLE_TRY_STATUS(set_gguf_rope(metadata, shape, 1e6, layer.sub[0].params));
    } else {
      layer.sub[0].params.set("rope_rotary", shape.head_dim).set("rope_theta", local_theta);
    }
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

}  // namespace

const Family& gemma3_family() {
  static const Family family = {"gemma3",      kHuggingFace, kGguf,    kDecoderWeightsPlusOne,
                                kLayerWeights, from_config,  from_gguf};
  return family;
}

}  // namespace heddle::model
