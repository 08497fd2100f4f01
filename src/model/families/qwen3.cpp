// Qwen3, dense: Llama with normalised queries and keys and an explicit head width.
#include "model/family.h"
#include "model/family_common.h"

namespace heddle::model {
namespace {

constexpr std::string_view kHuggingFace[] = {"Qwen3ForCausalLM"};
constexpr std::string_view kGguf[] = {"qwen3"};

constexpr WeightName kOwnWeights[] = {
    {"q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"q_bias", "self_attn.q_proj.bias", "attn_q.bias"},
    {"k_bias", "self_attn.k_proj.bias", "attn_k.bias"},
    {"v_bias", "self_attn.v_proj.bias", "attn_v.bias"},
    {"o_bias", "self_attn.o_proj.bias", "attn_output.bias"},
};
constexpr auto kLayerWeights =
    join_weights(kNormWeights, kFfnWeights, kAttentionWeights, kOwnWeights);

std::string_view all_full(int64_t, int64_t) { return "full_attention"; }

Result<ModelSpec> from_config(const Config& config, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, common_spec(config, tensors, "rms_norm_eps", false));
  HEDDLE_TRY(const AttentionShape shape, attention_shape(config));
  HEDDLE_TRY(const std::vector<std::string> types, layer_types(config, all_full, 1));
  HEDDLE_TRY(const bool bias, config.flag_or("attention_bias", false));
  HEDDLE_TRY(const int64_t width, config.size("intermediate_size"));
  for (const std::string& type : types) {
    const bool sliding = type == "sliding_attention";
    if (!sliding && type != "full_attention")
      return fail("{}: unknown layer type {}", config.name(), type);
    sublayer::Params params = attention_params(shape, spec.norm_eps);
    if (sliding) {
      HEDDLE_TRY(const int64_t window, config.size("sliding_window"));
      params.set("window", window);
    }
    HEDDLE_TRY_STATUS(set_rope(config, type, shape, 1e6, params));
    params.set("qk_norm", std::string("head")).set("qkv_bias", bias).set("o_bias", bias);
    spec.layers.push_back(decoder_layer(spec, sliding ? "sliding_window" : "full_attention",
                                        std::move(params), width));
  }
  return spec;
}

Result<ModelSpec> from_gguf(const Config& metadata, const TensorTable& tensors) {
  HEDDLE_TRY(ModelSpec spec, gguf_common_spec(metadata, tensors));
  HEDDLE_TRY(const AttentionShape shape, gguf_attention_shape(metadata, 0));
  HEDDLE_TRY(const int64_t layers, layer_count(metadata, "block_count"));
  sublayer::Params params = attention_params(shape, spec.norm_eps);
  HEDDLE_TRY_STATUS(set_gguf_rope(metadata, shape, 1e6, params));
  params.set("qk_norm", std::string("head"));
  HEDDLE_TRY(const int64_t width, metadata.size("feed_forward_length"));
  spec.layers.assign(static_cast<size_t>(layers),
                     decoder_layer(spec, "full_attention", std::move(params), width));
  return spec;
}

}  // namespace

const Family& qwen3_family() {
  static const Family family = {"qwen3",       kHuggingFace, kGguf,    kDecoderWeights,
                                kLayerWeights, from_config,  from_gguf};
  return family;
}

}  // namespace heddle::model
