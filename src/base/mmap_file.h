#pragma once
// A read-only file mapped into memory. Pages are loaded on first touch and shared with the page
// cache.
#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace heddle {

class MmapFile {
 public:
  static Result<MmapFile> open(const std::string& path);
  MmapFile() = default;
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  const std::string& path() const { return path_; }
  // Tells the kernel that [offset, offset + length) won't be needed again (it stays readable).
  void drop(size_t offset, size_t length) const;

 private:
  std::string path_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// The whole of a small text file (tokenizer.json, config.json); refuses more than `limit` bytes.
Result<std::string> read_text_file(const std::string& path, size_t limit = size_t{256} << 20);

}  // namespace heddle
