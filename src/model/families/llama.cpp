// Llama 2 and 3, SmolLM2, Marin: attention and a gated feed-forward in every layer.
// GGUF files of this family keep rotated rows in adjacent pairs and the scaling of Llama 3 as a
// tensor of divisors.
#include "model/family.h"
#include "model/family_common.h"

namespace heddle::model {
namespace {

constexpr std::string_view kHuggingFace[] = {"LlamaForCausalLM"};
constexpr std::string_view kGguf[] = {"llama"};

constexpr WeightName kOwnWeights[] = {
    {"q_proj", "self_attn.q_proj.weight", "attn_q.weight", Transform::none, Transform::adjacent_q},
    {"k_proj", "self_attn.k_proj.weight", "attn_k.weight", Transform::none, Transform::adjacent_k},
    {"v_proj", "self_attn.v_proj.weight", "attn_v.weight"},
    {"o_proj", "self_attn.o_proj.weight", "attn_output.weight"},
    {"q_bias", "self_attn.q_proj.bias", "attn_q.bias", Transform::none, Transform::adjacent_q},
    {"k_bias", "self_attn.k_proj.bias", "attn_k.bias", Transform::none, Transform::adjacent_k},
    {"v_bias", "self_attn.v_proj.bias", "attn_v.bias"},
    {"o_bias", "self_attn.o_proj.bias", "attn_output.bias"},
    {"rope_freqs", "", "rope_freqs.weight", Transform::none, Transform::none, true},
};
constexpr auto kLayerWeights = join_weights(kNormWeights, kFfnWeights, kOwnWeights);

Result<ModelSpec> from_config(const Config& config, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, common_spec(config, tensors, "rms_norm_eps", false));
  HEDDLE_TRY(const AttentionShape shape, attention_shape(config));
  HEDDLE_TRY(const int64_t layers, layer_count(config, "num_hidden_layers"));
  HEDDLE_TRY(const bool mlp_bias, config.flag_or("mlp_bias", false));
  if (mlp_bias) return fail("{}: mlp_bias is not supported", config.name());
  sublayer::Params params = attention_params(shape, spec.norm_eps);
  HEDDLE_TRY_STATUS(set_rope(config, "full_attention", shape, 10000, params));
  HEDDLE_TRY(const bool bias, config.flag_or("attention_bias", false));
  params.set("qkv_bias", bias).set("o_bias", bias);
  HEDDLE_TRY(const int64_t width, config.size("intermediate_size"));
  spec.layers.assign(static_cast<size_t>(layers),
                     decoder_layer(spec, "full_attention", std::move(params), width));
  return spec;
}

Result<ModelSpec> from_gguf(const Config& metadata, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, gguf_common_spec(metadata, tensors));
  HEDDLE_TRY(const AttentionShape shape, gguf_attention_shape(metadata, 0));
  HEDDLE_TRY(const int64_t layers, layer_count(metadata, "block_count"));
  HEDDLE_TRY(const int64_t experts, metadata.integer_or("expert_count", 0));
  if (experts > 0) return fail("{}: mixtures of experts are not supported", metadata.name());
  sublayer::Params params = attention_params(shape, spec.norm_eps);
  HEDDLE_TRY_STATUS(set_gguf_rope(metadata, shape, 10000, params));
  params.set("rope_freqs", tensors.has("rope_freqs.weight"))
      .set("qkv_bias", tensors.has("blk.0.attn_q.bias"))
      .set("o_bias", tensors.has("blk.0.attn_output.bias"));
  HEDDLE_TRY(const int64_t width, metadata.size("feed_forward_length"));
  spec.layers.assign(static_cast<size_t>(layers),
                     decoder_layer(spec, "full_attention", std::move(params), width));
  return spec;
}

}  // namespace

const Family& llama_family() {
  static const Family family = {"llama",       kHuggingFace, kGguf,    kDecoderWeights,
                                kLayerWeights, from_config,  from_gguf};
  return family;
}

}  // namespace heddle::model
