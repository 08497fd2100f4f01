#pragma once
// Reader of GGUF files, version 3 (source: the GGUF specification in ggml's docs/gguf.md). The file
// is mapped; nothing is copied but names. Every count, length, type, offset and alignment is
// checked against the file's size before it is used.
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/mmap_file.h"
#include "base/result.h"
#include "model/files/tensor_table.h"

namespace heddle::model {

// An array of a scalar type, as its bytes; strings as views. Arrays of arrays are checked and
// skipped: no key that models use has them.
struct GgufArray {
  uint32_t type = 0;  // of the elements, the format's number
  int64_t count = 0;
  std::span<const std::byte> bytes;       // scalars
  std::vector<std::string_view> strings;  // strings
};
using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string_view, GgufArray>;

class GgufFile {
 public:
  static Result<GgufFile> open(const std::string& path);
  // Over bytes that outlive the result, for tests and fuzzing; `name` appears in messages.
  static Result<GgufFile> parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  const MmapFile& file() const { return file_; }
  const TensorTable& tensors() const { return tensors_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }

  // Scalars; the fallback when the key is absent or of another kind.
  int64_t integer_or(std::string_view key, int64_t fallback) const;
  double number_or(std::string_view key, double fallback) const;
  bool flag_or(std::string_view key, bool fallback) const;
  std::string_view text_or(std::string_view key, std::string_view fallback) const;
  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  // Arrays; empty when the key is absent or of another kind. Integers of any width, and bools.
  std::span<const std::string_view> strings(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<float> numbers(std::string_view key) const;

 private:
  Status read(std::span<const std::byte> bytes);
  std::string path_;
  MmapFile file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  TensorTable tensors_;
};

}  // namespace heddle::model
