#pragma once
// What a model is, apart from its weights: the shape of every layer and which mixer it has. Made by
// a family from a configuration, or by hand.
#include <cstdint>
#include <string>
#include <vector>

#include "ops/elementwise/activation.h"
#include "sublayer/params.h"

namespace heddle::model {

struct FfnSpec {
  ops::Activation activation = ops::Activation::silu;
  int64_t width = 0;
};

// x += post_mixer_norm(mixer(pre_mixer_norm(x))); x += post_ffn_norm(ffn(pre_ffn_norm(x))), where
// the post norms are optional and ffn(n) = down(act(gate n) * up n).
struct LayerSpec {
  std::string mixer;  // name of a mixer kind
  sublayer::Params params;
  FfnSpec ffn;
  bool post_norms = false;
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
  bool tied = false;  // the output matrix is the embedding
  // What the tensors of a Hugging Face checkpoint begin with: "model." or "model.language_model.".
  std::string tensor_prefix;
  std::vector<LayerSpec> layers;
};

}  // namespace heddle::model
