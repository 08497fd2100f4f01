#include "model/files/checkpoint.h"

#include <algorithm>
#include <filesystem>

#include "model/files/safetensors.h"

namespace heddle::model {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxConfigBytes = size_t{16} << 20;
// Of the identity's samples: a tensor up to kWhole is hashed whole, a larger one by a piece of
// kPiece in every kStride and its last bytes.
constexpr int64_t kWhole = 64 << 10;
constexpr int64_t kPiece = 4 << 10;
constexpr int64_t kStride = 1 << 20;

std::string first_line(const std::string& text) {
  return text.substr(0, text.find_first_of("\r\n"));
}

bool looks_like_name(const std::string& text) {
  const size_t slash = text.find('/');
  return slash != text.npos && slash > 0 && slash + 1 < text.size() && text[0] != '.' &&
         text[0] != '~' && text.find('/', slash + 1) == text.npos && text.find("..") == text.npos;
}

Result<std::string> find_in_cache(const std::string& name, const std::string& revision,
                                  const std::string& cache) {
  std::string folder = "models--" + name;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path base = fs::path(cache) / folder;
  std::error_code error;
  if (!fs::is_directory(base, error))
    return fail("{}: neither a path nor a model in the cache {}", name, cache);
  std::string commit = revision;
  const std::string ref = (base / "refs" / revision).string();
  if (fs::is_regular_file(ref, error)) {
    HEDDLE_TRY(const std::string text, read_text_file(ref, 4096));
    commit = first_line(text);
  }
  if (commit.find("..") != commit.npos || commit.find('/') != commit.npos)
    return fail("{}: the revision {} is not a plain name", name, commit);
  const fs::path snapshot = base / "snapshots" / commit;
  if (!fs::is_directory(snapshot, error))
    return fail("{}: the cache {} has no snapshot of revision {}", name, cache, revision);
  return snapshot.string();
}

}  // namespace

Result<std::string> find_model(const std::string& name_or_path, const ModelPlaces& places) {
  std::error_code error;
  std::string path = name_or_path;
  if (!fs::exists(path, error)) {
    const size_t at = path.find('@');
    const std::string name = path.substr(0, at);
    if (!looks_like_name(name) || places.hugging_face_cache.empty())
      return fail("{}: no such file or folder", name_or_path);
    HEDDLE_TRY(path, find_in_cache(name, at == path.npos ? "main" : path.substr(at + 1),
                                   places.hugging_face_cache));
  }
  if (!fs::is_directory(path, error) || fs::exists(fs::path(path) / "config.json", error))
    return path;
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.path().extension() == ".gguf") files.push_back(entry.path().string());
  }
  if (files.size() == 1) return files[0];
  return fail("{}: the folder has neither config.json nor exactly one .gguf file (it has {})", path,
              files.size());
}

Result<Checkpoint> Checkpoint::open(const std::string& path) {
  Checkpoint result;
  result.path_ = path;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    const std::string name = (fs::path(path) / "config.json").string();
    HEDDLE_TRY(const std::string text, read_text_file(name, kMaxConfigBytes));
    HEDDLE_TRY(result.config_, Config::from_json(text, name));
    HEDDLE_TRY(Safetensors weights, open_safetensors(path));
    result.files_ = std::move(weights.files);
    result.safetensors_tensors_ = std::move(weights.tensors);
  } else {
    HEDDLE_TRY(GgufFile file, GgufFile::open(path));
    result.config_ = Config::from_gguf(file);
    result.gguf_ = std::move(file);
  }
  HEDDLE_TRY(result.family_, find_family(result.format(), result.config_));
  HEDDLE_TRY(result.spec_,
             make_spec(*result.family_, result.format(), result.config_, result.tensors()));
  if (result.spec_.name.empty()) result.spec_.name = fs::path(path).filename().string();
  return result;
}

int64_t Checkpoint::file_bytes() const {
  int64_t bytes = gguf_ ? static_cast<int64_t>(gguf_->file().bytes().size()) : 0;
  for (const MmapFile& file : files_) bytes += static_cast<int64_t>(file.bytes().size());
  return bytes;
}

Result<Checkpoint::Found> Checkpoint::find(int64_t layer, std::string_view weight) const {
  HEDDLE_TRY(TensorName name, tensor_name(*family_, spec_, format(), layer, weight));
  Found found;
  found.tensor = tensors().find(name.name);
  if (found.tensor == nullptr && weight == "head") {  // a wrapper's prefix
    const size_t model = spec_.tensor_prefix.rfind("model.");
    const std::string outer =
        model == std::string::npos ? std::string() : spec_.tensor_prefix.substr(0, model);
    found.tensor = tensors().find(outer + name.name);
  }
  if (found.tensor == nullptr) return fail("{}: tensor {} is missing", path_, name.name);
  found.name = std::move(name.name);
  found.transform = name.transform;
  return found;
}

void Checkpoint::drop(const TensorInfo& tensor) const {
  const MmapFile& file = gguf_ ? gguf_->file() : files_[static_cast<size_t>(tensor.file)];
  file.drop(static_cast<size_t>(tensor.data - file.bytes().data()),
            static_cast<size_t>(tensor.bytes));
}

void Checkpoint::drop_pages() const {
  if (gguf_) gguf_->file().drop(0, gguf_->file().bytes().size());
  for (const MmapFile& file : files_) file.drop(0, file.bytes().size());
}

Hash128 Checkpoint::hash() const {
  std::string table = config_.canonical();
  std::vector<uint64_t> pieces;
  for (const auto& [name, tensor] : tensors().all()) {
    table +=
        fmt::format("{} {} {}\n", name, dtype_info(tensor.dtype).name, shape_text(tensor.shape));
    const auto add = [&pieces, data = tensor.data](int64_t begin, int64_t end) {
      pieces.push_back(hash64({data + begin, static_cast<size_t>(end - begin)}));
    };
    if (tensor.bytes <= kWhole) {
      add(0, tensor.bytes);
    } else {
      for (int64_t at = 0; at + kPiece <= tensor.bytes; at += kStride) add(at, at + kPiece);
      add(tensor.bytes - kPiece, tensor.bytes);
      drop(tensor);
    }
  }
  const uint64_t seed = hash64(std::as_bytes(std::span(table)));
  return hash128(std::as_bytes(std::span(pieces)), seed);
}

}  // namespace heddle::model
