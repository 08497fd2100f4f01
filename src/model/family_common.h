#pragma once
// What families share: reading attention shapes, rotary embeddings and vocabularies from
// configurations of both kinds.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mixers/params.h"
#include "model/config.h"
#include "model/spec.h"
#include "model/tensor_table.h"

namespace heddle::model {

struct AttentionShape {
  int64_t d_model = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;
};

// Parameters that every attention mixer takes; scale = head_dim^-0.5, no rotation yet.
mixers::Params attention_params(const AttentionShape& shape, float norm_eps);

// num_attention_heads, num_key_value_heads, head_dim.
Result<AttentionShape> attention_shape(const Config& config);
// attention.head_count, attention.head_count_kv (of one layer where it is a list), key_length,
// value_length.
Result<AttentionShape> gguf_attention_shape(const Config& metadata, int64_t layer);

// The rotary parameters of a config.json: rope_parameters (also one per layer type) or rope_theta,
// rope_scaling and partial_rotary_factor.
Status set_rope(const Config& config, std::string_view layer_type, const AttentionShape& shape,
                double default_theta, mixers::Params& params);
// rope.dimension_count, rope.freq_base and rope.scaling.*.
Status set_gguf_rope(const Config& metadata, const AttentionShape& shape, double default_theta,
                     mixers::Params& params);

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
