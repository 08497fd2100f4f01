#pragma once
// What a mixer remembers about a sequence, declared (design, section 2). Paging, snapshots, fork,
// rollback, save and restore are written once over these declarations and never know a mixer's
// name.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/result.h"

namespace heddle::state {

constexpr int64_t kPageTokens = 64;

enum class Growth : uint8_t {
  per_token,  // every record, in pages
  window,     // the last `window` records (and the first `sinks`), in pages
  folded,     // a summary at the last fold boundary, and the records since it in one open page
};
constexpr int64_t kGrowthClasses = 3;

// A shorter form of pages that are complete, without loss: every bit of a page comes back. Whoever
// declares a part chooses its codec and reads both forms (PartView::packed).
struct PageCodec {
  int64_t (*packed_bytes)(int64_t page_bytes);
  // False: this page has no shorter form and stays as it is.
  bool (*pack)(const std::byte* page, int64_t page_bytes, std::byte* packed);
  void (*unpack)(const std::byte* packed, int64_t page_bytes, std::byte* page);
};

// Whether pages hold all records of a chunk, or only those that outlive its step.
constexpr bool stores_whole_chunk(Growth growth, int64_t page_records) {
  return growth == Growth::per_token || (growth == Growth::window && page_records == kPageTokens);
}

struct StatePart {
  std::string name;  // unique inside a mixer: "k", "v", "conv", "delta"
  Growth growth = Growth::per_token;
  DType dtype = DType::f32;  // of the records; a summary is always f32

  // A record is `strips` strips of `strip` elements. A page of R records is laid out
  // [strips][R][strip], so that a mixer chooses between token-major (strips 1), head-major (strips
  // = heads) and transposed (strip 1) pages.
  int64_t strips = 1;
  int64_t strip = 0;

  // R. per_token: 64. folded: the fold length F, a divisor of 64. window: 64 when the mixer reads
  // the records of a chunk back from the pages (sliding window attention); smaller (a divisor of
  // 64, R >= window) when only the records that outlive the step are stored (convolution tails).
  int64_t page_records = kPageTokens;

  int64_t window = 0;            // window: records before the next token that it can still see
  int64_t sinks = 0;             // window: first records that are never dropped
  int64_t summary_elements = 0;  // folded: float32 values of one summary

  // Of parts whose pages hold 64 records; nullptr: pages stay as they are written.
  const PageCodec* codec = nullptr;

  int64_t record_elements() const { return strips * strip; }
  int64_t record_bytes() const { return dtype_bytes(dtype, record_elements()); }
  int64_t page_bytes() const { return record_bytes() * page_records; }
  int64_t packed_bytes() const { return codec->packed_bytes(page_bytes()); }
  // That the first `records` records lie in, complete pages packed.
  int64_t held_bytes(int64_t records) const {
    if (codec == nullptr) return records * record_bytes();
    return records / page_records * packed_bytes() + records % page_records * record_bytes();
  }
  int64_t summary_bytes() const { return summary_elements * 4; }
  bool stores_whole_chunk() const { return state::stores_whole_chunk(growth, page_records); }
};

// Every field in range and consistent.
Status validate(const StatePart& part);

// Where a part lies in what its group keeps (layout.h).
struct PartPlace {
  int64_t group = 0;
  int64_t index = 0;           // among the parts of the group
  int64_t offset = 0;          // bytes from the start of a page
  int64_t summary_offset = 0;  // bytes from the start of a summary
};

// How a block of pages in its shorter form begins: where in it the page of each part of the group
// lies, and whether that page is packed or, having no shorter form, as it was.
class PackedHead {
 public:
  static constexpr int64_t kUnit = 64;  // pages lie at multiples of it

  explicit PackedHead(std::byte* block) : parts_(reinterpret_cast<uint32_t*>(block)) {}
  static int64_t bytes(int64_t parts) {
    return (parts * static_cast<int64_t>(sizeof(uint32_t)) + kUnit - 1) / kUnit * kUnit;
  }

  // part: its index in the group.
  int64_t offset(int64_t part) const { return (parts_[part] >> 1) * kUnit; }
  bool packed(int64_t part) const { return (parts_[part] & 1) != 0; }
  void prefetch(int64_t part) const { __builtin_prefetch(parts_ + part); }
  void set(int64_t part, int64_t offset, bool packed) {
    parts_[part] = static_cast<uint32_t>(offset / kUnit) << 1 | (packed ? 1 : 0);
  }

 private:
  uint32_t* parts_;
};

}  // namespace heddle::state
