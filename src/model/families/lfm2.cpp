// LFM2: gated short convolutions, attention with normalised queries and keys in some layers.
#include <algorithm>

#include "model/family.h"
#include "model/family_common.h"

namespace heddle::model {
namespace {

constexpr std::string_view kHuggingFace[] = {"Lfm2ForCausalLM"};
constexpr std::string_view kGguf[] = {"lfm2"};

constexpr WeightName kModelWeights[] = {
    {"embed", "embed_tokens.weight", "token_embd.weight"},
    {"head", "lm_head.weight", "output.weight"},
    // The name misleads: it is applied at the end.
    {"final_norm", "embedding_norm.weight", "token_embd_norm.weight"},
};

constexpr WeightName kLayerWeights[] = {
    {"pre_mixer_norm", "operator_norm.weight", "attn_norm.weight"},
    {"pre_ffn_norm", "ffn_norm.weight", "ffn_norm.weight"},
    {"ffn_gate", "feed_forward.w1.weight", "ffn_gate.weight"},
    {"ffn_up", "feed_forward.w3.weight", "ffn_up.weight"},
    {"ffn_down", "feed_forward.w2.weight", "ffn_down.weight"},
    {"q_proj", "self_attn.q_proj.weight", "attn_q.weight"},
    {"k_proj", "self_attn.k_proj.weight", "attn_k.weight"},
    {"v_proj", "self_attn.v_proj.weight", "attn_v.weight"},
    {"o_proj", "self_attn.out_proj.weight", "attn_output.weight"},
    {"q_norm", "self_attn.q_layernorm.weight", "attn_q_norm.weight"},
    {"k_norm", "self_attn.k_layernorm.weight", "attn_k_norm.weight"},
    {"in_proj", "conv.in_proj.weight", "shortconv.in_proj.weight"},
    {"conv", "conv.conv.weight", "shortconv.conv.weight"},
    {"out_proj", "conv.out_proj.weight", "shortconv.out_proj.weight"},
};

LayerSpec conv_layer(const ModelSpec& spec, int64_t taps, int64_t width) {
  return decoder_layer(spec, "short_conv",
                       sublayer::Params({{"d_model", spec.d_model}, {"taps", taps}}), width);
}

LayerSpec attention_layer(const ModelSpec& spec, const AttentionShape& shape, int64_t width) {
  sublayer::Params params = attention_params(shape, spec.norm_eps);
  params.set("qk_norm", std::string("head"));
  return decoder_layer(spec, "full_attention", std::move(params), width);
}

// The width that the checkpoint's class derives from intermediate_size.
Result<int64_t> ffn_width(const Config& config) {
  const char* key = config.has("intermediate_size") ? "intermediate_size" : "block_ff_dim";
  HEDDLE_TRY(int64_t width, config.size(key));
  HEDDLE_TRY(const bool adjust, config.flag_or("block_auto_adjust_ff_dim", true));
  if (!adjust) return width;
  HEDDLE_TRY(const double multiplier, config.number_or("block_ffn_dim_multiplier", 1));
  HEDDLE_TRY(const int64_t multiple, config.size_or("block_multiple_of", 256));
  const double adjusted = multiplier * static_cast<double>(2 * width / 3);
  if (!(adjusted >= 1 && adjusted < 1e9))
    return fail("{}: block_ffn_dim_multiplier {} makes no sensible width", config.name(),
                multiplier);
  return (static_cast<int64_t>(adjusted) + multiple - 1) / multiple * multiple;
}

Result<std::vector<std::string>> types_of(const Config& config) {
  HEDDLE_TRY(const std::vector<int64_t> attention, config.integers("full_attn_idxs"));
  if (config.has("layer_types") || attention.empty())
    return layer_types(
        config, [](int64_t, int64_t) { return std::string_view("full_attention"); }, 1);
  HEDDLE_TRY(const int64_t layers, layer_count(config, "num_hidden_layers"));
  std::vector<std::string> types;
  for (int64_t i = 0; i < layers; ++i) {
    const bool full = std::find(attention.begin(), attention.end(), i) != attention.end();
    types.emplace_back(full ? "full_attention" : "conv");
  }
  return types;
}

Result<ModelSpec> from_config(const Config& config, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, common_spec(config, tensors, "norm_eps", true));
  HEDDLE_TRY(const AttentionShape shape, attention_shape(config));
  HEDDLE_TRY(const int64_t taps, config.size_or("conv_L_cache", 3));
  HEDDLE_TRY(const bool bias, config.flag_or("conv_bias", false));
  if (bias) return fail("{}: conv_bias is not supported", config.name());
  HEDDLE_TRY(const int64_t width, ffn_width(config));
  HEDDLE_TRY(const std::vector<std::string> types, types_of(config));
  for (const std::string& type : types) {
    LayerSpec layer;
    if (type == "conv") {
      layer = conv_layer(spec, taps, width);
    } else if (type == "full_attention") {
      layer = attention_layer(spec, shape, width);
      HEDDLE_TRY_STATUS(set_rope(config, type, shape, 1e6, layer.sub[0].params));
    } else {
      return fail("{}: unknown layer type {}", config.name(), type);
    }
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

Result<ModelSpec> from_gguf(const Config& metadata, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, gguf_common_spec(metadata, tensors));
  HEDDLE_TRY(const int64_t layers, layer_count(metadata, "block_count"));
  HEDDLE_TRY(const int64_t taps, metadata.size_or("shortconv.l_cache", 3));
  HEDDLE_TRY(const int64_t width, metadata.size("feed_forward_length"));
  HEDDLE_TRY(const std::vector<int64_t> kv, metadata.integers("attention.head_count_kv"));
  if (static_cast<int64_t>(kv.size()) != layers)
    return fail("{}: attention.head_count_kv has {} entries, expected one for each of {} layers",
                metadata.name(), kv.size(), layers);
  for (int64_t i = 0; i < layers; ++i) {
    LayerSpec layer;
    if (kv[static_cast<size_t>(i)] == 0) {
      layer = conv_layer(spec, taps, width);
    } else {
      HEDDLE_TRY(const AttentionShape shape, gguf_attention_shape(metadata, i));
      layer = attention_layer(spec, shape, width);
      HEDDLE_TRY_STATUS(set_gguf_rope(metadata, shape, 1e6, layer.sub[0].params));
    }
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

}  // namespace

const Family& lfm2_family() {
  static const Family family = {"lfm2",        kHuggingFace, kGguf,    kModelWeights,
                                kLayerWeights, from_config,  from_gguf};
  return family;
}

}  // namespace heddle::model
