#include "model/family.h"

#include <algorithm>

namespace heddle::model {
namespace {

constexpr size_t kMaxLayers = 4096;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;

const WeightName* find_name(std::span<const WeightName> names, std::string_view weight) {
  const auto it = std::find_if(names.begin(), names.end(),
                               [&](const WeightName& name) { return name.weight == weight; });
  return it == names.end() ? nullptr : &*it;
}

std::string known_names(Format format) {
  std::string known;
  for (const Family* family : family_table()) {
    for (const std::string_view name :
         format == Format::gguf ? family->gguf : family->hugging_face) {
      known += known.empty() ? "" : ", ";
      known += name;
    }
  }
  return known;
}

}  // namespace

Result<const Family*> find_family(Format format, const Config& config) {
  std::vector<std::string> names;
  if (format == Format::gguf) {
    HEDDLE_TRY(std::string name, config.text("general.architecture"));
    names.push_back(std::move(name));
  } else {
    HEDDLE_TRY(names, config.texts("architectures"));
  }
  for (const Family* family : family_table()) {
    const auto& accepted = format == Format::gguf ? family->gguf : family->hugging_face;
    for (const std::string& name : names) {
      if (std::find(accepted.begin(), accepted.end(), name) != accepted.end()) return family;
    }
  }
  return fail("{}: unknown architecture {}; the known ones are {}", config.name(),
              names.empty() ? "(none given)" : names[0], known_names(format));
}

Result<const Family*> find_family(std::string_view name) {
  for (const Family* family : family_table()) {
    if (family->name == name) return family;
  }
  return fail("unknown family {}", name);
}

Result<TensorName> tensor_name(const Family& family, const ModelSpec& spec, Format format,
                               int64_t layer, std::string_view weight) {
  const WeightName* name =
      find_name(layer < 0 ? family.model_weights : family.layer_weights, weight);
  const bool gguf = format == Format::gguf;
  if (name == nullptr || (gguf ? name->gguf : name->hugging_face).empty())
    return fail("{} models have no tensor for the weight {}", family.name, weight);
  TensorName result;
  result.transform = gguf ? name->from_gguf : name->from_hugging_face;
  if (gguf) {
    if (layer >= 0 && !name->global) result.name = fmt::format("blk.{}.", layer);
    result.name += name->gguf;
  } else if (weight == "head") {
    result.name = name->hugging_face;
  } else {
    result.name = spec.tensor_prefix;
    if (layer >= 0) result.name += fmt::format("layers.{}.", layer);
    result.name += name->hugging_face;
  }
  return result;
}

Result<ModelSpec> make_spec(const Family& family, Format format, const Config& config,
                            const TensorTable& tensors) {
  auto made = format == Format::gguf ? family.from_gguf(config, tensors)
                                     : family.from_config(config, tensors);
  HEDDLE_TRY(ModelSpec spec, std::move(made));
  spec.arch = family.name;
  if (spec.layers.empty() || spec.layers.size() > kMaxLayers)
    return fail("{}: {} layers, expected 1 to {}", config.name(), spec.layers.size(), kMaxLayers);
  if (spec.d_model > kMaxWidth || spec.vocab_size > kMaxVocabulary)
    return fail("{}: width {} and vocabulary {}, expected at most {} and {}", config.name(),
                spec.d_model, spec.vocab_size, kMaxWidth, kMaxVocabulary);
  if (!(spec.norm_eps >= 0 && spec.norm_eps < 1))
    return fail("{}: the epsilon of its norms is {}, expected 0 to 1", config.name(),
                spec.norm_eps);
  return spec;
}

}  // namespace heddle::model
