#pragma once
// A model's files, opened but not loaded: configuration, tensor table, family and ModelSpec.
// Nothing of the weights is read, so opening is quick whatever the size.
#include <optional>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/mmap_file.h"
#include "base/result.h"
#include "model/family.h"
#include "model/files/config.h"
#include "model/files/gguf.h"
#include "model/files/tensor_table.h"
#include "model/spec.h"

namespace heddle::model {

// Where models are found by name: the Hugging Face cache, a folder of models--ORG--NAME. Empty: by
// path only. The caller reads the environment.
struct ModelPlaces {
  std::string hugging_face_cache;
};

// A path as it is; otherwise ORG/NAME[@REVISION] in the cache. The result is a GGUF file, or a
// folder with config.json.
Result<std::string> find_model(const std::string& name_or_path, const ModelPlaces& places);

class Checkpoint {
 public:
  // A .gguf file, or a folder with config.json and safetensors.
  static Result<Checkpoint> open(const std::string& path);

  const std::string& path() const { return path_; }
  Format format() const { return gguf_ ? Format::gguf : Format::hugging_face; }
  const GgufFile* gguf() const { return gguf_ ? &*gguf_ : nullptr; }  // null: a folder
  const Config& config() const { return config_; }
  const Family& family() const { return *family_; }
  const ModelSpec& spec() const { return spec_; }
  const TensorTable& tensors() const { return gguf_ ? gguf_->tensors() : safetensors_tensors_; }
  int64_t file_bytes() const;

  // The tensor of a weight, and how its values become the weight's. Layer -1: of the model.
  struct Found {
    const TensorInfo* tensor = nullptr;
    std::string name;
    Transform transform = Transform::none;
  };
  Result<Found> find(int64_t layer, std::string_view weight) const;

  // The tensor's pages won't be needed again.
  void drop(const TensorInfo& tensor) const;
  // Nor will any page for a while: those of the metadata have been read.
  void drop_pages() const;

  // Identifies the weights: configuration, names, types, shapes, all bytes of small tensors and
  // pieces all over the large ones.
  Hash128 hash() const;

 private:
  std::string path_;
  std::optional<GgufFile> gguf_;
  std::vector<MmapFile> files_;  // of safetensors
  TensorTable safetensors_tensors_;
  Config config_;
  const Family* family_ = nullptr;
  ModelSpec spec_;
};

}  // namespace heddle::model
