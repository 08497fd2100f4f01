#pragma once
// Safetensors files (source: the format's README, github.com/huggingface/safetensors): an 8-byte
// header length, a JSON header, the tensors' bytes. Sharded checkpoints come with an index file.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mmap_file.h"
#include "base/result.h"
#include "model/files/tensor_table.h"

namespace heddle::model {

// Adds the tensors of one file to `table`, pointing into `bytes`. `name` appears in messages,
// `file` is stored in TensorInfo::file. Refuses headers over 100 MB, unknown types, offsets that
// overlap, leave holes or pass the end, and names that are in the table already.
Status read_safetensors(std::span<const std::byte> bytes, const std::string& name, int32_t file,
                        TensorTable& table);

struct Safetensors {
  std::vector<MmapFile> files;
  TensorTable tensors;
};
// model.safetensors of a folder, or the shards that model.safetensors.index.json names, or one
// file.
Result<Safetensors> open_safetensors(const std::string& path);

// Writes a file tensor by tensor, in the order declared, so that a tensor need never be in memory
// as a whole.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    DType dtype = DType::f32;  // a plain type
    std::vector<int64_t> shape;
  };
  static Result<SafetensorsWriter> create(const std::string& path,
                                          const std::vector<Tensor>& tensors);
  // The next bytes of the data section.
  Status append(std::span<const std::byte> bytes);
  // Fails unless exactly the declared bytes were appended.
  Status finish();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t left_ = 0;
};

}  // namespace heddle::model
