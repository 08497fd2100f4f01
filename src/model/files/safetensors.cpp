#include "model/files/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

namespace heddle::model {
namespace {

using Json = nlohmann::ordered_json;
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxDims = 8;
constexpr const char* kIndex = "model.safetensors.index.json";

struct Type {
  std::string_view name;
  DType dtype;
};
constexpr Type kTypes[] = {
    {"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16}, {"I8", DType::i8},
    {"U8", DType::u8},   {"I32", DType::i32}, {"I64", DType::i64},
};

std::optional<DType> type_of(std::string_view name) {
  for (const Type& type : kTypes) {
    if (type.name == name) return type.dtype;
  }
  return std::nullopt;
}

// Parses an object and refuses one whose keys repeat at the top level (a parser keeps the last,
// another reader might keep the first).
Result<Json> parse_object(std::string_view text, const std::string& name) {
  std::set<std::string> keys;
  std::string repeated;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.insert(key).second && repeated.empty()) repeated = key;
    }
    return true;
  };
  Json json = Json::parse(text, watch, false);
  if (json.is_discarded()) return fail("{}: the header is not valid JSON", name);
  if (!json.is_object()) return fail("{}: the header is not a JSON object", name);
  if (!repeated.empty()) return fail("{}: {} appears twice", name, repeated);
  return json;
}

std::optional<uint64_t> unsigned_of(const Json& json) {
  if (!json.is_number_unsigned()) return std::nullopt;
  return json.get<uint64_t>();
}

struct Span {
  uint64_t begin;
  uint64_t end;
  std::string name;
};

Result<TensorInfo> read_entry(const Json& entry, const std::string& file, const std::string& name,
                              uint64_t space, Span& span) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets"))
    return fail("{}: tensor {}: expected dtype, shape and data_offsets", file, name);
  const Json& type = entry["dtype"];
  const Json& shape = entry["shape"];
  const Json& offsets = entry["data_offsets"];
  if (!type.is_string()) return fail("{}: tensor {}: dtype is not a string", file, name);
  const auto dtype = type_of(type.get_ref<const std::string&>());
  if (!dtype)
    return fail("{}: tensor {}: type {} is not read; expected F32, F16, BF16, I8, U8, I32 or I64",
                file, name, type.get_ref<const std::string&>());
  if (!shape.is_array() || shape.size() > kMaxDims)
    return fail("{}: tensor {}: shape is not a list of at most {} sizes", file, name, kMaxDims);
  TensorInfo info;
  info.dtype = *dtype;
  for (const Json& size : shape) {
    const auto value = unsigned_of(size);
    if (!value || *value > (uint64_t{1} << 40))
      return fail("{}: tensor {}: a size of its shape is not a sensible number", file, name);
    info.shape.push_back(static_cast<int64_t>(*value));
  }
  const bool empty = std::find(info.shape.begin(), info.shape.end(), 0) != info.shape.end();
  int64_t elements = 0;
  if (!empty) {
    HEDDLE_TRY(elements, checked_elements(name, info.shape));
  }
  info.bytes = dtype_bytes(*dtype, elements);
  const auto begin =
      offsets.is_array() && offsets.size() == 2 ? unsigned_of(offsets[0]) : std::nullopt;
  const auto end = begin ? unsigned_of(offsets[1]) : std::nullopt;
  if (!begin || !end || *begin > *end || *end > space)
    return fail(
        "{}: tensor {}: data_offsets are not inside the {} bytes of data; is the download "
        "complete?",
        file, name, space);
  if (*end - *begin != static_cast<uint64_t>(info.bytes))
    return fail("{}: tensor {}: {} {} takes {} bytes, but data_offsets span {}", file, name,
                dtype_info(*dtype).name, shape_text(info.shape), info.bytes, *end - *begin);
  span = {*begin, *end, name};
  return info;
}

Status check_spans(std::vector<Span>& spans, const std::string& file, uint64_t space) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t at = 0;
  for (const Span& span : spans) {
    if (span.begin != at)
      return fail("{}: tensor {} begins at byte {} of the data, expected {}: {}", file, span.name,
                  span.begin, at, span.begin < at ? "tensors overlap" : "there is a hole");
    at = span.end;
  }
  if (at != space)
    return fail("{}: {} bytes follow the last tensor; expected none", file, space - at);
  return {};
}

}  // namespace

Status read_safetensors(std::span<const std::byte> bytes, const std::string& name, int32_t file,
                        TensorTable& table) {
  if (bytes.size() < 8) return fail("{}: {} bytes are too few for safetensors", name, bytes.size());
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  if (header < 2 || header > kMaxHeader || header > bytes.size() - 8)
    return fail("{}: not a safetensors file: a header of {} bytes in a file of {}", name, header,
                bytes.size());
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header);
  if (text[0] != '{') return fail("{}: not a safetensors file: the header is not JSON", name);
  const uint64_t space = bytes.size() - 8 - header;
  const std::byte* data = bytes.data() + 8 + header;
  HEDDLE_TRY(const Json json, parse_object(text, name));
  std::vector<Span> spans;
  for (const auto& [key, entry] : json.items()) {
    if (key == "__metadata__") continue;
    Span span;
    HEDDLE_TRY(TensorInfo info, read_entry(entry, name, key, space, span));
    spans.push_back(std::move(span));
    info.data = data + spans.back().begin;
    info.file = file;
    if (!table.add(key, std::move(info)))
      return fail("{}: the tensor {} is in another file of the checkpoint too", name, key);
  }
  return check_spans(spans, name, space);
}

Result<Safetensors> open_safetensors(const std::string& path) {
  namespace fs = std::filesystem;
  Safetensors result;
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  const fs::path base = folder ? fs::path(path) : fs::path(path).parent_path();
  std::vector<std::string> shards;
  std::map<std::string, std::string> weight_map;
  const std::string index = (base / kIndex).string();
  if (folder && !fs::exists(base / "model.safetensors", error) && fs::exists(index, error)) {
    HEDDLE_TRY(const std::string text, read_text_file(index));
    HEDDLE_TRY(const Json json, parse_object(text, index));
    if (!json.contains("weight_map") || !json["weight_map"].is_object())
      return fail("{}: no weight_map", index);
    std::set<std::string> names;
    for (const auto& [tensor, shard] : json["weight_map"].items()) {
      if (!shard.is_string()) return fail("{}: the file of tensor {} is not a name", index, tensor);
      const auto& file = shard.get_ref<const std::string&>();
      if (file.empty() || file.find_first_of("/\\") != file.npos || file[0] == '.')
        return fail("{}: the file of tensor {} is not a plain file name", index, tensor);
      names.insert(file);
      weight_map[tensor] = file;
    }
    for (const std::string& file : names) shards.push_back((base / file).string());
  } else {
    shards.push_back(folder ? (base / "model.safetensors").string() : path);
  }
  if (shards.empty() || shards.size() > 4096)
    return fail("{}: {} files; expected 1 to 4096", index, shards.size());
  for (const std::string& shard : shards) {
    HEDDLE_TRY(MmapFile file, MmapFile::open(shard));
    HEDDLE_TRY_STATUS(read_safetensors(file.bytes(), shard,
                                       static_cast<int32_t>(result.files.size()), result.tensors));
    result.files.push_back(std::move(file));
  }
  for (const auto& [tensor, shard] : weight_map) {
    if (!result.tensors.has(tensor))
      return fail("{}: tensor {} is not in {}, where the index puts it", index, tensor, shard);
  }
  return result;
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path,
                                                    const std::vector<Tensor>& tensors) {
  Json header = Json::object();
  int64_t at = 0;
  for (const Tensor& tensor : tensors) {
    HEDDLE_TRY(const int64_t elements, checked_elements(tensor.name, tensor.shape));
    std::string_view type;
    for (const Type& known : kTypes) {
      if (known.dtype == tensor.dtype) type = known.name;
    }
    if (type.empty())
      return fail("{}: safetensors has no type for {}", path, dtype_info(tensor.dtype).name);
    const int64_t bytes = dtype_bytes(tensor.dtype, elements);
    header[tensor.name] = {
        {"dtype", type}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // keeps the data aligned, as the format asks
  SafetensorsWriter writer;
  writer.path_ = path;
  writer.left_ = at;
  writer.file_.reset(std::fopen(path.c_str(), "wb"));
  if (!writer.file_) return fail("{}: cannot be written: {}", path, std::strerror(errno));
  const uint64_t length = text.size();
  if (std::fwrite(&length, 8, 1, writer.file_.get()) != 1 ||
      std::fwrite(text.data(), text.size(), 1, writer.file_.get()) != 1)
    return fail("{}: writing failed: {}", path, std::strerror(errno));
  return writer;
}

Status SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (static_cast<int64_t>(bytes.size()) > left_)
    return fail("{}: more data than its header declares", path_);
  if (!bytes.empty() && std::fwrite(bytes.data(), bytes.size(), 1, file_.get()) != 1)
    return fail("{}: writing failed: {}", path_, std::strerror(errno));
  left_ -= static_cast<int64_t>(bytes.size());
  return {};
}

Status SafetensorsWriter::finish() {
  if (left_ != 0) return fail("{}: {} bytes of data are missing", path_, left_);
  if (std::fclose(file_.release()) != 0)
    return fail("{}: writing failed: {}", path_, std::strerror(errno));
  return {};
}

}  // namespace heddle::model
