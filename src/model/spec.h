#pragma once
// What a model is, apart from its weights: the sub-layers of every layer and their shapes. Made by
// a family from a configuration, or by hand.
#include <cstdint>
#include <string>
#include <vector>

#include "sublayer/params.h"

namespace heddle::model {

// x = input_scale x + residual_scale post_norm(f(pre_norm(x))), where f is the sub-layer.
struct SubLayerSpec {
  std::string kind;  // a name of sublayer::kind_table()
  sublayer::Params params;
  // Weights [D] of RMS norms, by our names ("pre_mixer_norm"); empty: no norm. Sub-layers in
  // parallel may share one.
  std::string pre_norm;
  std::string post_norm;
  float input_scale = 1;
  float residual_scale = 1;
  // Reads the x that the sub-layer before it read: x + a(n(x)) + b(n(x)).
  bool parallel = false;
};

// One after the other: [mixer, feed-forward] mostly; a mixer alone, mixers in parallel and a
// feed-forward, ... Names of weights are unique within a layer.
struct LayerSpec {
  std::vector<SubLayerSpec> sub;
};

// The sub-layer that a weight belongs to: the `sub`-th of a layer; layer -1: the model itself.
struct Owner {
  int64_t layer = -1;
  size_t sub = 0;
};

struct ModelSpec {
  std::string arch;  // name of the family
  std::string name;  // what the file calls itself; may be empty
  int64_t vocab_size = 0;
  int64_t d_model = 0;
  int64_t context_length = 0;
  float norm_eps = 0;
  float embed_scale = 1;
  // The scale is a number of the type that embeddings are computed in: that of the matrix as held,
  // float32 where it holds quantised blocks (Gemma; see loaded_embed_scale).
  bool embed_scale_rounded = false;
  float logit_scale = 1;
  bool tied = false;  // the output matrix is the embedding
  // What the tensors of a Hugging Face checkpoint begin with: "model." or "model.language_model.".
  std::string tensor_prefix;
  std::vector<LayerSpec> layers;
};

}  // namespace heddle::model
