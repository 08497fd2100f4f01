#pragma once
// A model family: how a configuration becomes a ModelSpec and which tensor of a file is which
// weight. One file per family under families/, collected into a generated table.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/files/config.h"
#include "model/files/tensor_table.h"
#include "model/spec.h"

namespace heddle::model {

enum class Format : uint8_t { hugging_face, gguf };

// What happens to a tensor's values on the way from the file to the weight. Files differ from the
// mixers' equations in these ways only.
enum class Transform : uint8_t {
  none,
  plus_one,    // norms stored as w with the norm multiplying by 1 + w
  minus_exp,   // decays stored as log(-decay)
  adjacent_q,  // rows of rotated heads in adjacent pairs; the mixers rotate half-split pairs
  adjacent_k,
};

// One weight: our name, the tensor in a Hugging Face checkpoint and the tensor in a GGUF file
// (empty: not stored there). Names of layer weights stand behind "<prefix>layers.N." and "blk.N.".
struct WeightName {
  std::string_view weight;
  std::string_view hugging_face;
  std::string_view gguf;
  Transform from_hugging_face = Transform::none;
  Transform from_gguf = Transform::none;
  bool global = false;  // GGUF: one tensor for all layers, no "blk.N." in front
};

// Names of weights: "embed", "head", "final_norm" of the model; of a layer those of its norms,
// which its SubLayerSpecs give, and the names in its sub-layers' WeightSpecs.
struct Family {
  std::string_view name;
  std::span<const std::string_view> hugging_face;  // architectures in config.json
  std::span<const std::string_view> gguf;          // general.architecture
  std::span<const WeightName> model_weights;
  std::span<const WeightName> layer_weights;
  Result<ModelSpec> (*from_config)(const Config& config, const TensorTable& tensors);
  Result<ModelSpec> (*from_gguf)(const Config& metadata, const TensorTable& tensors);
};

// Generated: one entry per file of src/model/families.
std::span<const Family* const> family_table();
Result<const Family*> find_family(Format format, const Config& config);
// By its own name.
Result<const Family*> find_family(std::string_view name);

// The tensor that holds a weight; layer -1: a weight of the model.
struct TensorName {
  std::string name;
  Transform transform = Transform::none;
};
Result<TensorName> tensor_name(const Family& family, const ModelSpec& spec, Format format,
                               int64_t layer, std::string_view weight);

// The model's ModelSpec, with the limits of sizes checked that nothing else bounds.
Result<ModelSpec> make_spec(const Family& family, Format format, const Config& config,
                            const TensorTable& tensors);

}  // namespace heddle::model
