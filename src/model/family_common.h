#pragma once
// What families share: reading attention shapes, rotary embeddings and vocabularies from
// configurations of both kinds.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/family.h"
#include "model/files/config.h"
#include "model/files/tensor_table.h"
#include "model/spec.h"
#include "sublayer/params.h"

namespace heddle::model {

// Weight names that families have in common; a family joins them with its own.
inline constexpr WeightName kDecoderWeights[] = {
    {"embed", "embed_tokens.weight", "token_embd.weight"},
    {"head", "lm_head.weight", "output.weight"},
    {"final_norm", "norm.weight", "output_norm.weight"},
};
// Norms stored as w for 1 + w.
inline constexpr WeightName kDecoderWeightsPlusOne[] = {
    kDecoderWeights[0],
    kDecoderWeights[1],
    {"final_norm", "norm.weight", "output_norm.weight", Transform::plus_one},
};
inline constexpr WeightName kNormWeights[] = {
    {"pre_mixer_norm", "input_layernorm.weight", "attn_norm.weight"},
    {"pre_ffn_norm", "post_attention_layernorm.weight", "ffn_norm.weight"},
};
inline constexpr WeightName kFfnWeights[] = {
    {"ffn_gate", "mlp.gate_proj.weight", "ffn_gate.weight"},
    {"ffn_up", "mlp.up_proj.weight", "ffn_up.weight"},
    {"ffn_down", "mlp.down_proj.weight", "ffn_down.weight"},
};
inline constexpr WeightName kAttentionWeights[] = {
    {"q_proj", "self_attn.q_proj.weight", "attn_q.weight"},
    {"k_proj", "self_attn.k_proj.weight", "attn_k.weight"},
    {"v_proj", "self_attn.v_proj.weight", "attn_v.weight"},
    {"o_proj", "self_attn.o_proj.weight", "attn_output.weight"},
};

template <size_t... N>
constexpr auto join_weights(const WeightName (&... tables)[N]) {
  std::array<WeightName, (N + ...)> joined{};
  size_t next = 0;
  const auto append = [&](const auto& table) {
    for (const WeightName& weight : table) joined[next++] = weight;
  };
  (append(tables), ...);
  return joined;
}

// A layer as most decoders have it: a mixer and a gated feed-forward, each behind a norm;
// post_norms: one before each sum, too.
LayerSpec decoder_layer(const ModelSpec& spec, std::string_view mixer, sublayer::Params params,
                        int64_t ffn_width, bool post_norms = false,
                        std::string_view activation = "silu");

struct AttentionShape {
  int64_t d_model = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;
};

// Parameters that every attention mixer takes; scale = head_dim^-0.5, no rotation yet.
sublayer::Params attention_params(const AttentionShape& shape, float norm_eps);

// num_attention_heads, num_key_value_heads, head_dim.
Result<AttentionShape> attention_shape(const Config& config);
// attention.head_count, attention.head_count_kv (of one layer where it is a list), key_length,
// value_length.
Result<AttentionShape> gguf_attention_shape(const Config& metadata, int64_t layer);

// The rotary parameters of a config.json: rope_parameters (also one per layer type) or rope_theta,
// rope_scaling and partial_rotary_factor.
Status set_rope(const Config& config, std::string_view layer_type, const AttentionShape& shape,
                double default_theta, sublayer::Params& params);
// rope.dimension_count, rope.freq_base and rope.scaling.*.
Status set_gguf_rope(const Config& metadata, const AttentionShape& shape, double default_theta,
                     sublayer::Params& params);

// Sizes, epsilon, context, vocabulary, tied output and the tensors' prefix; no layers yet.
Result<ModelSpec> common_spec(const Config& config, const TensorTable& tensors,
                              std::string_view eps_key, bool tied_by_default);
Result<ModelSpec> gguf_common_spec(const Config& metadata, const TensorTable& tensors);

// One name per layer: layer_types where given, else `fallback(layer)`. num_hidden_layers long.
Result<std::vector<std::string>> layer_types(const Config& config,
                                             std::string_view (*fallback)(int64_t layer,
                                                                          int64_t period),
                                             int64_t period);

// The number of layers, at most 4096.
Result<int64_t> layer_count(const Config& config, std::string_view key);

}  // namespace heddle::model
