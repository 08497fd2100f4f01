// A tile and one page: from where the page lies to what it adds to the rows. Compiled once per
// target.
#include <algorithm>
#include <cstdint>

#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_product-inl.h"
#include "ops/attention/attention_rows-inl.h"
#include "ops/attention/attention_tile.h"
#include "ops/attention/packed_page-inl.h"

#if defined(HEDDLE_OPS_ATTENTION_PAGE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_ATTENTION_PAGE_INL_H
#undef HEDDLE_OPS_ATTENTION_PAGE_INL_H
#else
#define HEDDLE_OPS_ATTENTION_PAGE_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

template <class Source>
static void block_scores(const Run& run, int64_t block, int64_t base, int vectors, int64_t column,
                         const typename Source::T* keys, int64_t stride, const Fetch& fetch = {}) {
  const int64_t begin = run.block_begin(block);
  const int64_t end = run.block_begin(block + 1);
  const Seen any = seen_by_any(run, begin, end, base);
  if (column + vectors * kLanes <= any.begin || column >= any.end) return;
  multiply<Source, true>(end - begin, vectors,
                         {run.scratch.q + begin * run.key_width, keys, stride, run.key_width,
                          run.scratch.scores + begin * kPage + column, kPage, fetch});
}

// Adds a page's keys to columns [column, ...) of the accumulators of a block. Keys that every row
// sees are shared; the few before and after (the edge of a window, the diagonal) are done row by
// row, in order.
template <class Source>
static void block_values(const Run& run, int64_t block, int64_t base, int vectors, int64_t column,
                         const typename Source::T* values, int64_t stride,
                         const Fetch& fetch = {}) {
  const int64_t begin = run.block_begin(block);
  const int64_t end = run.block_begin(block + 1);
  // Limits grow with the row.
  const Seen oldest = seen(run, begin, base);
  const Seen newest = seen(run, end - 1, base);
  if (oldest.begin >= newest.end) return;
  const auto part = [&](int64_t r, int64_t rows, int64_t from, int64_t to) HWY_ATTR {
    if (from >= to) return;
    multiply<Source, false>(
        rows, vectors,
        {run.scratch.scores + r * kPage + from, values + from * stride, stride, to - from,
         run.scratch.acc + r * run.width + column, run.width, fetch});
  };
  const Seen shared{newest.begin, oldest.end};
  if (shared.empty()) {
    for (int64_t r = begin; r < end; ++r) {
      const Seen range = seen(run, r, base);
      part(r, 1, range.begin, range.end);
    }
    return;
  }
  for (int64_t r = begin; r < end && oldest.begin < shared.begin; ++r)
    part(r, 1, seen(run, r, base).begin, shared.begin);
  part(begin, end - begin, shared.begin, shared.end);
  for (int64_t r = begin; r < end && shared.end < newest.end; ++r)
    part(r, 1, shared.end, seen(run, r, base).end);
}

// A head's part of a page: keys [K][64], values [V / S][64][S], each as it is or packed.
struct HeadPage {
  const std::byte* keys;
  const std::byte* values;
  bool keys_packed = false;
  bool values_packed = false;
};

static HWY_INLINE int64_t bytes_of(const Run& run, int64_t elements, bool packed) {
  return packed ? elements / kUnitElements * kPackedUnitBytes
                : elements * (run.args.kv.shape.dtype == DType::bf16 ? 2 : 4);
}
static HWY_INLINE int64_t key_bytes(const Run& run, int64_t heads, bool packed) {
  return bytes_of(run, heads * run.key_width * kPage, packed);
}
static HWY_INLINE int64_t value_bytes(const Run& run, int64_t heads, bool packed) {
  return bytes_of(run, heads * run.value_width * kPage, packed);
}

// The order in which page_direct() reads keys and values, page after page: products fetch what
// comes kLead bytes later. Nearer than that memory answers too late; much farther, and the
// hardware's own prefetching, which follows these requests, gets less done (measured on an EPYC of
// family 26: 34 GB/s of one core at 6 KiB, 29 at 16).
class PageStream {
 public:
  PageStream(const Run& run, const HeadPage& page, const HeadPage& next)
      : keys_(page.keys),
        values_(page.values),
        next_(next.keys),
        key_bytes_(key_bytes(run, run.rows / run.head_rows, page.keys_packed)),
        value_bytes_(value_bytes(run, run.rows / run.head_rows, page.values_packed)) {}

  // For a product that reads so many bytes.
  HWY_INLINE Fetch advance(int64_t bytes) {
    int64_t at = position_ + kLead;
    position_ += bytes;
    if (at < key_bytes_) return {keys_ + at, values_, key_bytes_ - at};
    at -= key_bytes_;
    if (at < value_bytes_) return {values_ + at, next_, value_bytes_ - at};
    return {next_ + at - value_bytes_, nullptr, 0};
  }

 private:
  static constexpr int64_t kLead = 6 << 10;
  const std::byte* keys_;
  const std::byte* values_;
  const std::byte* next_;
  int64_t key_bytes_;
  int64_t value_bytes_;
  int64_t position_ = 0;
};

// Straight from the page, in the order of its addresses: all heads' keys, all heads' values. What
// is packed is seen by every row.
template <class Source>
static void page_direct(const Run& run, const HeadPage& page, const HeadPage& next, int64_t base) {
  using T = typename Source::T;
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  PageStream stream(run, page, next);
  // Blocks of a head read the same: the first one fetches.
  const auto fetch = [&](int64_t block, int64_t bytes) HWY_ATTR {
    return block % run.head_blocks == 0 ? stream.advance(bytes) : Fetch{};
  };
  const auto rows_of = [&](int64_t block)
                           HWY_ATTR { return run.block_begin(block + 1) - run.block_begin(block); };
  for (int64_t block = 0; block < run.blocks; ++block) {
    const std::byte* keys = page.keys + key_bytes(run, block / run.head_blocks, page.keys_packed);
#if HWY_TARGET == HWY_AVX3_DL
    if (page.keys_packed) {
      const int64_t begin = run.block_begin(block);
      multiply_packed<true>(rows_of(block), {run.scratch.q + begin * run.key_width, keys, 0,
                                             run.key_width, run.scratch.scores + begin * kPage,
                                             kPage, fetch(block, key_bytes(run, 1, true))});
      continue;
    }
#endif
    const int vectors = wide(static_cast<int>(rows_of(block)));
    for (int64_t c = 0; c < kPage; c += vectors * kLanes)
      block_scores<Source>(run, block, base, vectors, c, reinterpret_cast<const T*>(keys) + c,
                           kPage, fetch(block, run.key_width * vectors * kLanes * kSize));
  }
  softmax_page(run, base);
  const int64_t band = run.args.kv.shape.value_band();
  for (int64_t block = 0; block < run.blocks; ++block) {
    const std::byte* values =
        page.values + value_bytes(run, block / run.head_blocks, page.values_packed);
#if HWY_TARGET == HWY_AVX3_DL
    if (page.values_packed) {
      const int64_t begin = run.block_begin(block);
      for (int64_t c = 0; c < run.value_width; c += 64, values += kPackedUnitBytes)
        multiply_packed<false>(rows_of(block), {run.scratch.scores + begin * kPage, values, 0,
                                                kPage, run.scratch.acc + begin * run.width + c,
                                                run.width, fetch(block, kPackedUnitBytes)});
      continue;
    }
#endif
    const int many = wide(static_cast<int>(rows_of(block)));
    for (int64_t c = 0; c < run.value_width;) {
      const int vectors = c % band + many * kLanes <= band ? many : 1;
      block_values<Source>(run, block, base, vectors, c,
                           reinterpret_cast<const T*>(values) + run.args.kv.shape.value_at(0, 0, c),
                           band, fetch(block, kPage * vectors * kLanes * kSize));
      c += vectors * kLanes;
    }
  }
}

// Fetches a part of the next page in equal portions, one for each product of this one.
class FetchAhead {
 public:
  FetchAhead(const std::byte* page, int64_t bytes, int64_t products)
      : at_(page), end_(at_ + bytes), portion_((bytes / products + 63) / 64 * 64) {}
  HWY_INLINE void step() {
    const std::byte* const stop = std::min(at_ + portion_, end_);
    for (; at_ < stop; at_ += 64) hwy::Prefetch(at_);
  }

 private:
  const std::byte* at_;
  const std::byte* end_;
  int64_t portion_;
};

// Many rows: from panels, keys [64 / kPanel][K][kPanel], values [V / kPanel][64][kPanel].
static void page_panels(const Run& run, int64_t base, const HeadPage& next) {
  constexpr int kVectors = wide(kMaxBlock);
  FetchAhead keys(next.keys, key_bytes(run, 1, next.keys_packed), kPage / kPanel * run.blocks);
  for (int64_t c = 0; c < kPage; c += kPanel) {
    for (int64_t block = 0; block < run.blocks; ++block) {
      keys.step();
      block_scores<Float32>(run, block, base, kVectors, c, run.scratch.keys + c * run.key_width,
                            kPanel);
    }
  }
  softmax_page(run, base);
  FetchAhead values(next.values, value_bytes(run, 1, next.values_packed),
                    std::max<int64_t>(1, run.width / kPanel) * run.blocks);
  int64_t c = 0;
  for (; c + kPanel <= run.width; c += kPanel) {
    for (int64_t block = 0; block < run.blocks; ++block) {
      values.step();
      block_values<Float32>(run, block, base, kVectors, c, run.scratch.values + c * kPage, kPanel);
    }
  }
  for (int64_t n = 0; c < run.width; c += kLanes, n += kLanes)
    for (int64_t block = 0; block < run.blocks; ++block)
      block_values<Float32>(run, block, base, 1, c, run.scratch.values + (c - n) * kPage + n,
                            kPanel);
}

// Widens the records of a page that somebody sees; values beyond V are zeros.
template <class Source>
static void widen_keys(const Run& run, const typename Source::T* HWY_RESTRICT keys) {
  const int64_t key_width = run.key_width;
  for (int64_t c = 0; c < kPage; c += kPanel) {
    float* HWY_RESTRICT panel = run.scratch.keys + c * key_width;
    for (int64_t d = 0; d < key_width; ++d)
      for (int64_t n = 0; n < kPanel; n += kLanes)
        hn::StoreU(Source::load(keys + d * kPage + c + n), DF(), panel + d * kPanel + n);
  }
}

template <class Source>
static void widen_values(const Run& run, const typename Source::T* HWY_RESTRICT values,
                         const Seen& any) {
  const int64_t value_width = run.value_width;
  const int64_t band = run.args.kv.shape.value_band();
  for (int64_t c = 0; c < run.width; c += kPanel) {
    float* HWY_RESTRICT panel = run.scratch.values + c * kPage;
    const int64_t whole = std::min(kPanel, (value_width - c) / kLanes * kLanes);
    const auto* column = values + run.args.kv.shape.value_at(0, 0, c);
    for (int64_t j = any.begin; j < any.end; ++j) {
      const auto* row = column + j * band;
      if (whole == kPanel) {
        for (int64_t n = 0; n < kPanel; n += kLanes)
          hn::StoreU(Source::load(row + n), DF(), panel + j * kPanel + n);
        continue;
      }
      for (int64_t n = 0; n < kPanel; ++n)
        panel[j * kPanel + n] = c + n < value_width ? Source::widen(row[n]) : 0.0f;
    }
  }
}

template <class Source>
static void widen_page(const Run& run, const HeadPage& page, const Seen& any) {
  using T = typename Source::T;
#if HWY_TARGET == HWY_AVX3_DL
  static_assert(kPanel == 64);
  const auto widen_packed = [](const std::byte* units, int64_t count, float* panel) HWY_ATTR {
    for (int64_t u = 0; u < count; ++u)
      widen_packed_unit(reinterpret_cast<const uint8_t*>(units) + u * kPackedUnitBytes,
                        panel + u * kUnitElements);
  };
  if (page.keys_packed) widen_packed(page.keys, run.key_width / kUnitStrips, run.scratch.keys);
  if (page.values_packed) widen_packed(page.values, run.value_width / 64, run.scratch.values);
#endif
  if (!page.keys_packed) widen_keys<Source>(run, reinterpret_cast<const T*>(page.keys));
  if (!page.values_packed) widen_values<Source>(run, reinterpret_cast<const T*>(page.values), any);
}

// ---- pages ---------------------------------------------------------------------------------

// The first head's keys and values of a page of logical positions.
template <class T>
static HeadPage find_page(const Run& run, int64_t page, const Seen& any) {
  const KvView& kv = run.args.kv;
  const state::PartView& key_part = kv.state->at(run.tile.segment, kv.key_part);
  const state::PartView& value_part = kv.state->at(run.tile.segment, kv.value_part);
  const int64_t base = page * kPage;
  if (!run.tile.gather || base + any.end <= run.segment.start) {
    HeadPage found{key_part.page(page), value_part.page(page), key_part.is_packed(page),
                   value_part.is_packed(page)};
    found.keys += key_bytes(run, run.kv_head, found.keys_packed);
    found.values += value_bytes(run, run.kv_head, found.values_packed);
    return found;
  }
  // Pages of the segment's own rows, and the one it starts in, are never packed.
  const int64_t key_offset = run.kv_head * run.key_width * kPage;
  const int64_t value_offset = kv.shape.value_at(run.kv_head, 0, 0);
  auto* keys = reinterpret_cast<T*>(run.scratch.key_page);
  auto* values = reinterpret_cast<T*>(run.scratch.value_page);
  for (int64_t j = any.begin; j < any.end; ++j) {
    const int64_t position = base + j;
    const int64_t slot =
        position < run.segment.start ? position : run.scratch.slots[position - run.segment.start];
    const T* from =
        reinterpret_cast<const T*>(key_part.page(slot / kPage)) + key_offset + slot % kPage;
    for (int64_t d = 0; d < run.key_width; ++d) keys[d * kPage + j] = from[d * kPage];
    from = reinterpret_cast<const T*>(value_part.page(slot / kPage)) + value_offset;
    const int64_t band = kv.shape.value_band();
    for (int64_t c = 0; c < run.value_width; c += band) {
      const T* row = from + kv.shape.value_at(0, slot % kPage, c);
      std::copy(row, row + band, values + kv.shape.value_at(0, j, c));
    }
  }
  return {run.scratch.key_page, run.scratch.value_page};
}

// The task's heads of a page, unpacked where products can't read them packed.
static HeadPage readable(const Run& run, HeadPage page, int64_t base) {
  if (kReadsPacked && (!run.tile.direct || all_see_all(run, base))) return page;
  const int64_t heads = run.rows / run.head_rows;
  if (page.keys_packed) {
    unpack_page(page.keys, key_bytes(run, heads, false), run.scratch.key_page);
    page.keys = run.scratch.key_page;
    page.keys_packed = false;
  }
  if (page.values_packed) {
    unpack_page(page.values, value_bytes(run, heads, false), run.scratch.value_page);
    page.values = run.scratch.value_page;
    page.values_packed = false;
  }
  return page;
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
