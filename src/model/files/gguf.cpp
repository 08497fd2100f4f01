#include "model/files/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

namespace heddle::model {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF", little endian
constexpr int64_t kMaxDims = 4;
constexpr int64_t kMaxNameBytes = 1 << 16;
constexpr int kMaxNesting = 4;

// The format's numbers of value types.
enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
  kValueTypes
};
constexpr std::array<int64_t, kValueTypes> kScalarBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct TensorType {
  uint32_t number;
  DType dtype;
};
constexpr TensorType kTensorTypes[] = {
    {0, DType::f32},  {1, DType::f16},  {2, DType::q4_0},  {3, DType::q4_1},  {6, DType::q5_0},
    {7, DType::q5_1}, {8, DType::q8_0}, {12, DType::q4_k}, {13, DType::q5_k}, {14, DType::q6_k},
    {24, DType::i8},  {26, DType::i32}, {27, DType::i64},  {30, DType::bf16},
};

std::optional<DType> tensor_type(uint32_t number) {
  for (const TensorType& type : kTensorTypes) {
    if (type.number == number) return type.dtype;
  }
  return std::nullopt;
}

template <class T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// One scalar; `type` is neither string nor array.
GgufValue scalar(uint32_t type, const std::byte* data) {
  switch (type) {
    case kUint8:
      return static_cast<int64_t>(load<uint8_t>(data));
    case kInt8:
      return static_cast<int64_t>(load<int8_t>(data));
    case kUint16:
      return static_cast<int64_t>(load<uint16_t>(data));
    case kInt16:
      return static_cast<int64_t>(load<int16_t>(data));
    case kUint32:
      return static_cast<int64_t>(load<uint32_t>(data));
    case kInt32:
      return static_cast<int64_t>(load<int32_t>(data));
    case kFloat32:
      return static_cast<double>(load<float>(data));
    case kBool:
      return load<uint8_t>(data) != 0;
    case kUint64: {
      const auto value = load<uint64_t>(data);
      if (value <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(value);
      return value;
    }
    case kInt64:
      return load<int64_t>(data);
    default:
      return load<double>(data);
  }
}

// A cursor that never passes the end.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  int64_t offset() const { return offset_; }
  int64_t left() const { return static_cast<int64_t>(bytes_.size()) - offset_; }

  Result<const std::byte*> take(int64_t count, std::string_view what) {
    if (count < 0 || count > left())
      return fail("{}: the file ends inside {} at byte {}: {} bytes needed, {} left", path_, what,
                  offset_, count, left());
    const std::byte* data = bytes_.data() + offset_;
    offset_ += count;
    return data;
  }

  template <class T>
  Result<T> number(std::string_view what) {
    HEDDLE_TRY(const std::byte* data, take(sizeof(T), what));
    return load<T>(data);
  }

  // A count of things that take at least `each` bytes of what is left.
  Result<int64_t> count(int64_t each, std::string_view what) {
    HEDDLE_TRY(const uint64_t value, number<uint64_t>(what));
    if (value > static_cast<uint64_t>(left() / each))
      return fail("{}: {} says {} at byte {}, but only {} bytes are left", path_, what, value,
                  offset_ - 8, left());
    return static_cast<int64_t>(value);
  }

  Result<std::string_view> string(std::string_view what) {
    HEDDLE_TRY(const int64_t length, count(1, what));
    HEDDLE_TRY(const std::byte* data, take(length, what));
    return std::string_view(reinterpret_cast<const char*>(data), static_cast<size_t>(length));
  }

  Result<std::string> name(std::string_view what) {
    HEDDLE_TRY(const std::string_view text, string(what));
    if (text.empty() || static_cast<int64_t>(text.size()) > kMaxNameBytes ||
        text.find('\0') != text.npos)
      return fail("{}: {} before byte {} is empty, too long or holds a zero byte", path_, what,
                  offset_);
    return std::string(text);
  }

  Result<GgufArray> array(const std::string& key, int nesting) {
    HEDDLE_TRY(const uint32_t type, number<uint32_t>(key));
    if (type >= kValueTypes) return unknown_type(key, type);
    GgufArray array;
    array.type = type;
    if (type == kString) {
      HEDDLE_TRY(array.count, count(8, key));
      array.strings.reserve(static_cast<size_t>(array.count));
      for (int64_t i = 0; i < array.count; ++i) {
        HEDDLE_TRY(const std::string_view text, string(key));
        array.strings.push_back(text);
      }
    } else if (type == kArray) {
      if (nesting >= kMaxNesting)
        return fail("{}: {}: arrays nested deeper than {}", path_, key, kMaxNesting);
      HEDDLE_TRY(array.count, count(12, key));
      for (int64_t i = 0; i < array.count; ++i)
        HEDDLE_TRY_STATUS(skip(this->array(key, nesting + 1)));
    } else {
      HEDDLE_TRY(array.count, count(kScalarBytes[type], key));
      const int64_t bytes = array.count * kScalarBytes[type];
      HEDDLE_TRY(const std::byte* data, take(bytes, key));
      array.bytes = {data, static_cast<size_t>(bytes)};
    }
    return array;
  }

  Result<GgufValue> value(const std::string& key) {
    HEDDLE_TRY(const uint32_t type, number<uint32_t>(key));
    if (type >= kValueTypes) return unknown_type(key, type);
    if (type == kString) {
      HEDDLE_TRY(const std::string_view text, string(key));
      return GgufValue(text);
    }
    if (type == kArray) {
      HEDDLE_TRY(GgufArray values, array(key, 0));
      return GgufValue(std::move(values));
    }
    HEDDLE_TRY(const std::byte* data, take(kScalarBytes[type], key));
    return scalar(type, data);
  }

 private:
  tl::unexpected<Error> unknown_type(const std::string& key, uint32_t type) const {
    return fail("{}: {}: unknown value type {} before byte {}, expected 0 to {}", path_, key, type,
                offset_, kValueTypes - 1);
  }
  static Status skip(const Result<GgufArray>& array) {
    if (!array) return tl::unexpected<Error>(array.error());
    return {};
  }

  std::span<const std::byte> bytes_;
  const std::string& path_;
  int64_t offset_ = 0;
};

struct Placed {
  std::string name;
  TensorInfo info;
  uint64_t offset = 0;  // from the start of the data section
};

Result<Placed> read_tensor(Reader& reader, const std::string& path, int64_t alignment) {
  Placed tensor;
  HEDDLE_TRY(tensor.name, reader.name("a tensor name"));
  HEDDLE_TRY(const uint32_t dims, reader.number<uint32_t>(tensor.name));
  if (dims < 1 || dims > kMaxDims)
    return fail("{}: tensor {} has {} dimensions, expected 1 to {}", path, tensor.name, dims,
                kMaxDims);
  for (uint32_t i = 0; i < dims; ++i) {
    HEDDLE_TRY(const uint64_t size, reader.number<uint64_t>(tensor.name));
    if (size == 0 || size > (uint64_t{1} << 40))
      return fail("{}: tensor {} has a dimension of size {}", path, tensor.name, size);
    tensor.info.shape.push_back(static_cast<int64_t>(size));
  }
  const int64_t row = tensor.info.shape[0];  // the file lists the fastest dimension first
  std::reverse(tensor.info.shape.begin(), tensor.info.shape.end());
  HEDDLE_TRY(const int64_t elements, checked_elements(tensor.name, tensor.info.shape));
  HEDDLE_TRY(const uint32_t type, reader.number<uint32_t>(tensor.name));
  const auto dtype = tensor_type(type);
  if (!dtype)
    return fail(
        "{}: tensor {} has type number {}; the types read are F32, F16, BF16, Q4_0, Q4_1, "
        "Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K and integers",
        path, tensor.name, type);
  tensor.info.dtype = *dtype;
  const DTypeInfo& format = dtype_info(*dtype);
  if (row % format.block_elements != 0)
    return fail("{}: tensor {} has rows of {} values, but {} stores blocks of {}", path,
                tensor.name, row, format.name, format.block_elements);
  tensor.info.bytes = dtype_bytes(*dtype, elements);
  HEDDLE_TRY(tensor.offset, reader.number<uint64_t>(tensor.name));
  if (tensor.offset % static_cast<uint64_t>(alignment) != 0)
    return fail("{}: tensor {} lies at offset {}, which is no multiple of the alignment {}", path,
                tensor.name, tensor.offset, alignment);
  return tensor;
}

}  // namespace

Result<GgufFile> GgufFile::open(const std::string& path) {
  GgufFile result;
  result.path_ = path;
  HEDDLE_TRY(result.file_, MmapFile::open(path));
  HEDDLE_TRY_STATUS(result.read(result.file_.bytes()));
  return result;
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  GgufFile result;
  result.path_ = name;
  HEDDLE_TRY_STATUS(result.read(bytes));
  return result;
}

Status GgufFile::read(std::span<const std::byte> bytes) {
  Reader reader(bytes, path_);
  HEDDLE_TRY(const uint32_t magic, reader.number<uint32_t>("the magic number"));
  if (magic != kMagic) return fail("{}: not a GGUF file: the first four bytes are not GGUF", path_);
  HEDDLE_TRY(const uint32_t version, reader.number<uint32_t>("the version"));
  if (version != 3) return fail("{}: GGUF version {}, expected 3", path_, version);
  // A tensor takes at least 8 + 1 + 4 + 8 + 4 + 8 bytes, a key at least 8 + 1 + 4 + 1.
  HEDDLE_TRY(const int64_t tensors, reader.count(33, "the number of tensors"));
  HEDDLE_TRY(const int64_t keys, reader.count(14, "the number of keys"));
  for (int64_t i = 0; i < keys; ++i) {
    HEDDLE_TRY(std::string key, reader.name("a key"));
    HEDDLE_TRY(GgufValue value, reader.value(key));
    if (!metadata_.emplace(key, std::move(value)).second)
      return fail("{}: the key {} appears twice", path_, key);
  }
  const int64_t alignment = integer_or("general.alignment", 32);
  if (alignment < 8 || alignment > 65536 || (alignment & (alignment - 1)) != 0)
    return fail("{}: general.alignment is {}, expected a power of two from 8 to 65536", path_,
                alignment);
  std::vector<Placed> placed;
  placed.reserve(static_cast<size_t>(tensors));
  for (int64_t i = 0; i < tensors; ++i) {
    HEDDLE_TRY(Placed tensor, read_tensor(reader, path_, alignment));
    placed.push_back(std::move(tensor));
  }
  const int64_t start = (reader.offset() + alignment - 1) / alignment * alignment;
  const int64_t space = std::max<int64_t>(0, static_cast<int64_t>(bytes.size()) - start);
  std::sort(placed.begin(), placed.end(),
            [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
  uint64_t free_from = 0;
  for (Placed& tensor : placed) {
    if (tensor.info.bytes > space ||
        tensor.offset > static_cast<uint64_t>(space - tensor.info.bytes))
      return fail(
          "{}: tensor {} needs {} bytes at offset {} of the data, but the file holds {}: "
          "is the download complete?",
          path_, tensor.name, tensor.info.bytes, tensor.offset, space);
    if (tensor.offset < free_from)
      return fail("{}: tensor {} overlaps the one before it", path_, tensor.name);
    free_from = tensor.offset + static_cast<uint64_t>(tensor.info.bytes);
    tensor.info.data = bytes.data() + start + static_cast<int64_t>(tensor.offset);
    if (!tensors_.add(tensor.name, std::move(tensor.info)))
      return fail("{}: the tensor {} appears twice", path_, tensor.name);
  }
  return {};
}

int64_t GgufFile::integer_or(std::string_view key, int64_t fallback) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return fallback;
  const auto* value = std::get_if<int64_t>(&it->second);
  return value == nullptr ? fallback : *value;
}

double GgufFile::number_or(std::string_view key, double fallback) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return fallback;
  if (const auto* value = std::get_if<double>(&it->second)) return *value;
  if (const auto* value = std::get_if<int64_t>(&it->second)) return static_cast<double>(*value);
  return fallback;
}

bool GgufFile::flag_or(std::string_view key, bool fallback) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return fallback;
  const auto* value = std::get_if<bool>(&it->second);
  return value == nullptr ? fallback : *value;
}

std::string_view GgufFile::text_or(std::string_view key, std::string_view fallback) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return fallback;
  const auto* value = std::get_if<std::string_view>(&it->second);
  return value == nullptr ? fallback : *value;
}

std::span<const std::string_view> GgufFile::strings(std::string_view key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return {};
  const auto* array = std::get_if<GgufArray>(&it->second);
  return array == nullptr ? std::span<const std::string_view>() : array->strings;
}

std::vector<int64_t> GgufFile::integers(std::string_view key) const {
  std::vector<int64_t> values;
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return values;
  const auto* array = std::get_if<GgufArray>(&it->second);
  if (array == nullptr || array->bytes.empty()) return values;
  const int64_t each = kScalarBytes[array->type];
  for (int64_t i = 0; i < array->count; ++i) {
    const GgufValue value = scalar(array->type, array->bytes.data() + i * each);
    if (const auto* integer = std::get_if<int64_t>(&value))
      values.push_back(*integer);
    else if (const auto* flag = std::get_if<bool>(&value))
      values.push_back(*flag ? 1 : 0);
    else
      return {};
  }
  return values;
}

std::vector<float> GgufFile::numbers(std::string_view key) const {
  std::vector<float> values;
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return values;
  const auto* array = std::get_if<GgufArray>(&it->second);
  if (array == nullptr || array->bytes.empty()) return values;
  const int64_t each = kScalarBytes[array->type];
  for (int64_t i = 0; i < array->count; ++i) {
    const GgufValue value = scalar(array->type, array->bytes.data() + i * each);
    if (const auto* number = std::get_if<double>(&value))
      values.push_back(static_cast<float>(*number));
    else if (const auto* integer = std::get_if<int64_t>(&value))
      values.push_back(static_cast<float>(*integer));
    else
      return {};
  }
  return values;
}

}  // namespace heddle::model
