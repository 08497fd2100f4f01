// Qwen3.5, dense text: three Gated DeltaNet layers for each gated attention layer. Checkpoints are
// vision-language wrappers whose text model is read; its multi-part rotary positions are all equal
// for text. Norms are stored as w for 1 + w (but the mixer's own); GGUF files hold 1 + w.
// Tensors of the next-token predictor (mtp.*, nextn.*) are not read.
#include "model/family.h"
#include "model/family_common.h"

namespace heddle::model {
namespace {

constexpr std::string_view kHuggingFace[] = {"Qwen3_5ForCausalLM",
                                             "Qwen3_5ForConditionalGeneration"};
constexpr std::string_view kGguf[] = {"qwen35"};

constexpr WeightName kOwnWeights[] = {
    {"pre_mixer_norm", "input_layernorm.weight", "attn_norm.weight", Transform::plus_one},
    {"pre_ffn_norm", "post_attention_layernorm.weight", "post_attention_norm.weight",
     Transform::plus_one},
    {"q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", Transform::plus_one},
    {"k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", Transform::plus_one},
    {"qkv_proj", "linear_attn.in_proj_qkv.weight", "attn_qkv.weight"},
    {"z_proj", "linear_attn.in_proj_z.weight", "attn_gate.weight"},
    {"b_proj", "linear_attn.in_proj_b.weight", "ssm_beta.weight"},
    {"a_proj", "linear_attn.in_proj_a.weight", "ssm_alpha.weight"},
    {"conv", "linear_attn.conv1d.weight", "ssm_conv1d.weight"},
    {"decay", "linear_attn.A_log", "ssm_a", Transform::minus_exp},
    {"dt_bias", "linear_attn.dt_bias", "ssm_dt.bias"},
    {"norm", "linear_attn.norm.weight", "ssm_norm.weight"},
    {"out_proj", "linear_attn.out_proj.weight", "ssm_out.weight"},
};
constexpr auto kLayerWeights = join_weights(kFfnWeights, kAttentionWeights, kOwnWeights);

std::string_view linear_but_every(int64_t layer, int64_t period) {
  return (layer + 1) % period == 0 ? "full_attention" : "linear_attention";
}

LayerSpec attention_layer(const ModelSpec& spec, const AttentionShape& shape, bool gate,
                          int64_t width) {
  sublayer::Params params = attention_params(shape, spec.norm_eps);
  params.set("qk_norm", std::string("head")).set("output_gate", gate);
  return decoder_layer(spec, "full_attention", std::move(params), width);
}

struct DeltaShape {
  int64_t key_heads = 0;
  int64_t value_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  int64_t taps = 0;
  bool tiled = false;  // value head n reads key head n mod key_heads instead of n / repeats
};

LayerSpec delta_layer(const ModelSpec& spec, const DeltaShape& shape, int64_t width) {
  sublayer::Params params({
      {"d_model", spec.d_model},
      {"key_heads", shape.key_heads},
      {"value_heads", shape.value_heads},
      {"key_dim", shape.key_dim},
      {"value_dim", shape.value_dim},
      {"taps", shape.taps},
      {"norm_eps", static_cast<double>(spec.norm_eps)},
      {"tiled", shape.tiled},
  });
  return decoder_layer(spec, "gated_delta_net", std::move(params), width);
}

Result<ModelSpec> from_config(const Config& config, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, common_spec(config, tensors, "rms_norm_eps", false));
  HEDDLE_TRY(const AttentionShape shape, attention_shape(config));
  HEDDLE_TRY(const int64_t period, config.size_or("full_attention_interval", 4));
  HEDDLE_TRY(const std::vector<std::string> types, layer_types(config, linear_but_every, period));
  HEDDLE_TRY(const bool gate, config.flag_or("attn_output_gate", true));
  HEDDLE_TRY(const bool bias, config.flag_or("attention_bias", false));
  if (bias) return fail("{}: attention_bias is not supported", config.name());
  DeltaShape delta;
  HEDDLE_TRY(delta.key_heads, config.size("linear_num_key_heads"));
  HEDDLE_TRY(delta.value_heads, config.size("linear_num_value_heads"));
  HEDDLE_TRY(delta.key_dim, config.size("linear_key_head_dim"));
  HEDDLE_TRY(delta.value_dim, config.size("linear_value_head_dim"));
  HEDDLE_TRY(delta.taps, config.size_or("linear_conv_kernel_dim", 4));
  HEDDLE_TRY(const int64_t width, config.size("intermediate_size"));
  for (const std::string& type : types) {
    LayerSpec layer;
    if (type == "linear_attention") {
      layer = delta_layer(spec, delta, width);
    } else if (type == "full_attention") {
      layer = attention_layer(spec, shape, gate, width);
      HEDDLE_TRY_STATUS(set_rope(config, type, shape, 1e7, layer.sub[0].params));
    } else {
      return fail("{}: unknown layer type {}", config.name(), type);
    }
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

Result<DeltaShape> gguf_delta_shape(const Config& metadata) {
  DeltaShape delta;
  HEDDLE_TRY(delta.key_heads, metadata.size("ssm.group_count"));
  HEDDLE_TRY(delta.value_heads, metadata.size("ssm.time_step_rank"));
  HEDDLE_TRY(delta.key_dim, metadata.size("ssm.state_size"));
  HEDDLE_TRY(const int64_t inner, metadata.size("ssm.inner_size"));
  HEDDLE_TRY(delta.taps, metadata.size("ssm.conv_kernel"));
  if (inner % delta.value_heads != 0)
    return fail("{}: ssm.inner_size {} is no multiple of {} heads", metadata.name(), inner,
                delta.value_heads);
  delta.value_dim = inner / delta.value_heads;
  delta.tiled = true;
  return delta;
}

Result<ModelSpec> from_gguf(const Config& metadata, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, gguf_common_spec(metadata, tensors));
  HEDDLE_TRY(const AttentionShape shape, gguf_attention_shape(metadata, 0));
  HEDDLE_TRY(const int64_t blocks, layer_count(metadata, "block_count"));
  HEDDLE_TRY(const int64_t predictors, metadata.integer_or("nextn_predict_layers", 0));
  if (predictors < 0 || predictors >= blocks)
    return fail("{}: nextn_predict_layers is {} of {} blocks", metadata.name(), predictors, blocks);
  HEDDLE_TRY(const int64_t period, metadata.size_or("full_attention_interval", 4));
  HEDDLE_TRY(const std::vector<int64_t> recurrent, metadata.integers("attention.recurrent_layers"));
  if (!recurrent.empty() && static_cast<int64_t>(recurrent.size()) < blocks - predictors)
    return fail("{}: attention.recurrent_layers has {} entries for {} layers", metadata.name(),
                recurrent.size(), blocks - predictors);
  HEDDLE_TRY(const DeltaShape delta, gguf_delta_shape(metadata));
  HEDDLE_TRY(const int64_t width, metadata.size("feed_forward_length"));
  for (int64_t i = 0; i < blocks - predictors; ++i) {
    const bool full =
        recurrent.empty() ? (i + 1) % period == 0 : recurrent[static_cast<size_t>(i)] == 0;
    LayerSpec layer =
        full ? attention_layer(spec, shape, true, width) : delta_layer(spec, delta, width);
    if (full) HEDDLE_TRY_STATUS(set_gguf_rope(metadata, shape, 1e7, layer.sub[0].params));
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

}  // namespace

const Family& qwen3_5_family() {
  static const Family family = {"qwen3_5",     kHuggingFace, kGguf,    kDecoderWeightsPlusOne,
                                kLayerWeights, from_config,  from_gguf};
  return family;
}

}  // namespace heddle::model
