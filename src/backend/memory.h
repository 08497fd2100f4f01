#pragma once
// Where every large piece of memory comes from: scratch of a step (arena.h), packed weights
// (weight_memory.h), pages and summaries (state/block.h). One object per place: the host's memory
// here, a device's beside it. Out of memory is an error that names what was wanted, never an abort.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace heddle::backend {

// What mappings are multiples of. Kernels stream through their memory: with huge pages few address
// translations are missed and the hardware's prefetching meets few page ends.
constexpr int64_t kHugePage = int64_t{2} << 20;

class Memory {
 public:
  virtual ~Memory() = default;
  // `bytes` > 0 rounded up to whole huge pages, zeroed, beginning at one; what is not touched takes
  // no memory but the rest of a huge page. `what` it is for stands in the error: "scratch".
  virtual Result<std::byte*> map(int64_t bytes, std::string_view what) = 0;
  // Gives back what map(bytes) returned.
  virtual void unmap(std::byte* data, int64_t bytes) = 0;
  // Copies `from`, which the host holds, to `to` in this memory; has happened when it returns.
  virtual Status write(std::byte* to, std::span<const std::byte> from) = 0;
  // Whether the CPU can read and write it.
  virtual bool host() const = 0;
};

// This machine's main memory. Stateless, so one object serves every thread.
Memory& host_memory();

// One mapping, owned.
class Mapping {
 public:
  Mapping() = default;
  static Result<Mapping> of(Memory& memory, int64_t bytes, std::string_view what);
  ~Mapping() { reset(); }
  Mapping(Mapping&& other) noexcept { *this = std::move(other); }
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  void reset();
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }  // whole huge pages

 private:
  Memory* memory_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace heddle::backend
