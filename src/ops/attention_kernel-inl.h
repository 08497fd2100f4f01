// The kernels of attention_cpu.cpp, compiled once per target.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ops/attention.h"
#include "ops/attention_product-inl.h"
#include "ops/attention_tile.h"
#include "ops/math-inl.h"
#include "ops/simd.h"

#if defined(HEDDLE_OPS_ATTENTION_KERNEL_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_ATTENTION_KERNEL_INL_H
#undef HEDDLE_OPS_ATTENTION_KERNEL_INL_H
#else
#define HEDDLE_OPS_ATTENTION_KERNEL_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {

using attention_tile::Plan;
using attention_tile::Scratch;
using attention_tile::Tile;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// ---- one tile ------------------------------------------------------------------------------

struct Run {
  const Plan& plan;
  const AttentionArgs& args;
  const Tile& tile;
  const Scratch& scratch;
  const state::Segment& segment;
  int64_t kv_head;      // first
  int64_t head_rows;    // of one kv head
  int64_t head_blocks;  // of up to kMaxBlock rows
  int64_t rows;         // head after head
  int64_t blocks;
  int64_t key_width;
  int64_t value_width;
  int64_t width;   // of accumulators, padded
  float* origin;   // [rows] of the split: probabilities are 2^(score - origin)
  float* origin0;  // [rows] of the splits before
  float* sum0;     // [rows]

  int64_t block_begin(int64_t b) const {
    return b / head_blocks * head_rows + head_rows * (b % head_blocks) / head_blocks;
  }
  int64_t token(int64_t r) const { return tile.row + r % head_rows / plan.group; }
  int64_t head(int64_t r) const {  // of the queries
    return (kv_head + r / head_rows) * plan.group + r % plan.group;
  }
};

static Run make_run(const Plan& plan, const Tile& tile, int64_t kv_head, int64_t heads,
                    const Scratch& scratch) {
  const AttentionArgs& args = *plan.args;
  const int64_t head_rows = tile.tokens * plan.group;
  const int64_t head_blocks = (head_rows + kMaxBlock - 1) / kMaxBlock;
  const int64_t rows = heads * head_rows;
  float* stats = scratch.stats;
  return {plan,
          args,
          tile,
          scratch,
          args.kv.batch->segments[static_cast<size_t>(tile.segment)],
          kv_head,
          head_rows,
          head_blocks,
          rows,
          heads * head_blocks,
          args.kv.shape.key_width,
          args.kv.shape.value_width,
          plan.padded_width,
          stats,
          stats + rows,
          stats + 2 * rows};
}

// A head's rows are token-major, so that their limits grow; queries are scaled and interleaved by
// block.
static void pack_queries(const Run& run) {
  const float scale = run.args.scale * (run.args.soft_cap > 0 ? 1.0f : kLog2e);
  for (int64_t block = 0; block < run.blocks; ++block) {
    const int64_t begin = run.block_begin(block);
    const int64_t m = run.block_begin(block + 1) - begin;
    for (int64_t r = begin; r < begin + m; ++r) {
      const int64_t token = run.segment.row + run.token(r);
      const int64_t position = run.args.kv.batch->positions[static_cast<size_t>(token)];
      const int64_t window = run.args.window;
      run.scratch.first[r] =
          window > 0 ? static_cast<int32_t>(std::max<int64_t>(0, position - window + 1)) : 0;
      run.scratch.end[r] = static_cast<int32_t>(position + 1);
      const float* q = run.args.q + token * run.args.q_stride + run.head(r) * run.key_width;
      float* packed = run.scratch.q + begin * run.key_width + (r - begin);
      for (int64_t d = 0; d < run.key_width; ++d) packed[d * m] = q[d] * scale;
    }
  }
}

// Keys of the page at `base` that row r sees: [begin, end) inside the page; empty: begin >= end.
struct Seen {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
};
static HWY_INLINE Seen seen(const Run& run, int64_t r, int64_t base) {
  return {std::max<int64_t>(run.scratch.first[r] - base, 0),
          std::min<int64_t>(run.scratch.end[r] - base, kPage)};
}
// What any of rows [begin, end) sees: limits grow with the row.
static HWY_INLINE Seen seen_by_any(const Run& run, int64_t begin, int64_t end, int64_t base) {
  return {seen(run, begin, base).begin, seen(run, end - 1, base).end};
}

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

// cap tanh(x / cap) log2 e; tanh(x) = 1 - 2 / (e^2x + 1)
static HWY_INLINE F32x16 cap16(F32x16 x, float cap) {
  const F32x16 e = exp(mul(x, set16(2.0f / cap)));
  const F32x16 tanh = sub(set16(1.0f), div(set16(2.0f), add(e, set16(1.0f))));
  return mul(tanh, set16(cap * kLog2e));
}

// How far above its origin a row's scores may lie, in units of ln 2: probabilities are then at most
// 256, no less exact, and after a row's first page its accumulators hardly ever need scaling (as in
// FlashAttention-4). The origin is a whole number, so that scaling is exact, and depends on the
// row's scores alone, page after page.
constexpr float kSlack = 8.0f;

// Brings what a row has added up so far to an origin not below `top`.
static HWY_NOINLINE void move_origin(const Run& run, int64_t r, float top) {
  const float before = run.origin[r];
  run.origin[r] = std::ceil(top);
  if (before == kNothing) return;
  const F32x16 factor = set16(exp2_one(before - run.origin[r]));
  float* acc = run.scratch.acc + r * run.width;
  for (int64_t c = 0; c < run.width; c += 16) store16(mul(load16(acc + c), factor), acc + c);
  float* sums = run.scratch.sums + r * 16;
  store16(mul(load16(sums), factor), sums);
}

// N vectors of a row's scores to probabilities.
template <int N>
static HWY_INLINE void softmax_vectors(const Run& run, int64_t r, float* s) {
  F32x16 x[N];
  x[0] = load16(s);
  F32x16 top = x[0];
#pragma GCC unroll 4
  for (int n = 1; n < N; ++n) {
    x[n] = load16(s + n * 16);
    top = max(top, x[n]);
  }
  // Hardly ever, so that the exponentials need not wait for it.
  if (any_above(top, run.origin[r] + kSlack)) move_origin(run, r, max_lane(top));
  const F32x16 origin = set16(run.origin[r]);
  F32x16 total = load16(run.scratch.sums + r * 16);
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const F32x16 p = exp2(sub(x[n], origin));
    store16(p, s + n * 16);
    total = add(total, p);
  }
  store16(total, run.scratch.sums + r * 16);
}

// Scores of a row that sees a part of the page, or has a soft cap, to probabilities.
static void softmax_row(const Run& run, int64_t r, int64_t base) {
  const Seen range = seen(run, r, base);
  if (range.empty()) return;
  float* s = run.scratch.scores + r * kPage;
  const int64_t begin = range.begin / 16 * 16;
  const int64_t end = (range.end + 15) / 16 * 16;
  if (run.args.soft_cap > 0)
    for (int64_t j = begin; j < end; j += 16)
      store16(cap16(load16(s + j), run.args.soft_cap), s + j);
  // What is not seen may be memory that was never written: replaced, not multiplied.
  for (int64_t j = begin; j < range.begin; ++j) s[j] = kNothing;
  for (int64_t j = range.end; j < end; ++j) s[j] = kNothing;
  switch ((end - begin) / 16) {
    case 1:
      return softmax_vectors<1>(run, r, s + begin);
    case 2:
      return softmax_vectors<2>(run, r, s + begin);
    case 3:
      return softmax_vectors<3>(run, r, s + begin);
    default:
      return softmax_vectors<4>(run, r, s + begin);
  }
}

static HWY_NOINLINE void softmax_page(const Run& run, int64_t base) {
  // Limits grow with the row.
  const bool whole =
      seen(run, run.head_rows - 1, base).begin == 0 && seen(run, 0, base).end == kPage;
  for (int64_t r = 0; r < run.rows; ++r) {
    if (whole && run.args.soft_cap <= 0)
      softmax_vectors<kPage / 16>(run, r, run.scratch.scores + r * kPage);
    else
      softmax_row(run, r, base);
  }
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

// A head's part of a page: keys [K][64], values [V / S][64][S].
template <class T>
struct PagePair {
  const T* keys;
  const T* values;
};

// The order in which page_direct() reads keys and values, page after page: products fetch what
// comes kLead bytes later. Nearer than that memory answers too late; much farther, and the
// hardware's own prefetching, which follows these requests, gets less done (measured on an EPYC of
// family 26: 34 GB/s of one core at 6 KiB, 29 at 16).
template <class T>
class PageStream {
 public:
  PageStream(const Run& run, const PagePair<T>& page, const PagePair<T>& next)
      : keys_(reinterpret_cast<const std::byte*>(page.keys)),
        values_(reinterpret_cast<const std::byte*>(page.values)),
        next_(reinterpret_cast<const std::byte*>(next.keys)) {
    const int64_t elements = run.rows / run.head_rows * kPage * static_cast<int64_t>(sizeof(T));
    key_bytes_ = run.key_width * elements;
    value_bytes_ = run.value_width * elements;
  }

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

// Straight from the page, in the order of its addresses: all heads' keys, all heads' values.
template <class Source>
static void page_direct(const Run& run, const PagePair<typename Source::T>& page,
                        const PagePair<typename Source::T>& next, int64_t base) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(typename Source::T));
  PageStream<typename Source::T> stream(run, page, next);
  // Blocks of a head read the same: the first one fetches.
  const auto fetch = [&](int64_t block, int64_t bytes) HWY_ATTR {
    return block % run.head_blocks == 0 ? stream.advance(bytes) : Fetch{};
  };
  const auto vectors_of = [&](int64_t block) HWY_ATTR {
    return wide(static_cast<int>(run.block_begin(block + 1) - run.block_begin(block)));
  };
  for (int64_t block = 0; block < run.blocks; ++block) {
    const auto* keys = page.keys + block / run.head_blocks * run.key_width * kPage;
    const int vectors = vectors_of(block);
    for (int64_t c = 0; c < kPage; c += vectors * kLanes)
      block_scores<Source>(run, block, base, vectors, c, keys + c, kPage,
                           fetch(block, run.key_width * vectors * kLanes * kSize));
  }
  softmax_page(run, base);
  const int64_t band = run.args.kv.shape.value_band();
  for (int64_t block = 0; block < run.blocks; ++block) {
    const auto* values = page.values + block / run.head_blocks * run.value_width * kPage;
    for (int64_t c = 0; c < run.value_width;) {
      const int many = vectors_of(block);
      const int vectors = c % band + many * kLanes <= band ? many : 1;
      block_values<Source>(run, block, base, vectors, c,
                           values + run.args.kv.shape.value_at(0, 0, c), band,
                           fetch(block, kPage * vectors * kLanes * kSize));
      c += vectors * kLanes;
    }
  }
}

// Fetches a part of the next page in equal portions, one for each product of this one.
class FetchAhead {
 public:
  FetchAhead(const void* page, int64_t bytes, int64_t products)
      : at_(static_cast<const std::byte*>(page)),
        end_(at_ + bytes),
        portion_((bytes / products + 63) / 64 * 64) {}
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
template <class T>
static void page_panels(const Run& run, int64_t base, const PagePair<T>& next) {
  constexpr int kVectors = wide(kMaxBlock);
  FetchAhead keys(next.keys, run.key_width * kPage * sizeof(T), kPage / kPanel * run.blocks);
  for (int64_t c = 0; c < kPage; c += kPanel) {
    for (int64_t block = 0; block < run.blocks; ++block) {
      keys.step();
      block_scores<Float32>(run, block, base, kVectors, c, run.scratch.keys + c * run.key_width,
                            kPanel);
    }
  }
  softmax_page(run, base);
  FetchAhead values(next.values, run.value_width * kPage * sizeof(T),
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
static void widen_page(const Run& run, const typename Source::T* HWY_RESTRICT keys,
                       const typename Source::T* HWY_RESTRICT values, const Seen& any) {
  const int64_t key_width = run.key_width;
  const int64_t value_width = run.value_width;
  const int64_t band = run.args.kv.shape.value_band();
  for (int64_t c = 0; c < kPage; c += kPanel) {
    float* HWY_RESTRICT panel = run.scratch.keys + c * key_width;
    for (int64_t d = 0; d < key_width; ++d)
      for (int64_t n = 0; n < kPanel; n += kLanes)
        hn::StoreU(Source::load(keys + d * kPage + c + n), DF(), panel + d * kPanel + n);
  }
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

// ---- pages ---------------------------------------------------------------------------------

// The first head's keys and values of a page of logical positions.
template <class T>
static PagePair<T> find_page(const Run& run, int64_t page, const Seen& any) {
  const KvView& kv = run.args.kv;
  std::byte* const* key_pages = kv.state->at(run.tile.segment, kv.key_part).pages;
  std::byte* const* value_pages = kv.state->at(run.tile.segment, kv.value_part).pages;
  const int64_t key_offset = run.kv_head * run.key_width * kPage;
  const int64_t value_offset = kv.shape.value_at(run.kv_head, 0, 0);
  const int64_t base = page * kPage;
  if (!run.tile.gather || base + any.end <= run.segment.start)
    return {reinterpret_cast<const T*>(key_pages[page]) + key_offset,
            reinterpret_cast<const T*>(value_pages[page]) + value_offset};
  auto* keys = reinterpret_cast<T*>(run.scratch.key_page);
  auto* values = reinterpret_cast<T*>(run.scratch.value_page);
  for (int64_t j = any.begin; j < any.end; ++j) {
    const int64_t position = base + j;
    const int64_t slot =
        position < run.segment.start ? position : run.scratch.slots[position - run.segment.start];
    const T* from = reinterpret_cast<const T*>(key_pages[slot / kPage]) + key_offset + slot % kPage;
    for (int64_t d = 0; d < run.key_width; ++d) keys[d * kPage + j] = from[d * kPage];
    from = reinterpret_cast<const T*>(value_pages[slot / kPage]) + value_offset;
    const int64_t band = kv.shape.value_band();
    for (int64_t c = 0; c < run.value_width; c += band) {
      const T* row = from + kv.shape.value_at(0, slot % kPage, c);
      std::copy(row, row + band, values + kv.shape.value_at(0, j, c));
    }
  }
  return {keys, values};
}

template <class Source>
static void run_split(const Run& run, int64_t split) {
  std::fill(run.origin, run.origin + run.rows, kNothing);
  std::fill(run.scratch.sums, run.scratch.sums + run.rows * 16, 0.0f);
  std::fill(run.scratch.acc, run.scratch.acc + run.rows * run.width, 0.0f);
  const int64_t oldest = run.scratch.first[0];
  const int64_t end = run.scratch.end[run.rows - 1];
  const int64_t pages = (end + kPage - 1) / kPage;
  const int64_t first_page = std::max(split * kSplitPages, oldest / kPage);
  const int64_t end_page = std::min((split + 1) * kSplitPages, pages);
  // After its last page a thread probably goes on with the split that no other takes before.
  const int64_t skipped = run.tile.partials == nullptr ? 0 : (run.plan.threads - 1) * kSplitPages;
  for (int64_t page = first_page; page < end_page; ++page) {
    const int64_t base = page * kPage;
    const Seen any = seen_by_any(run, 0, run.rows, base);
    const auto found = find_page<typename Source::T>(run, page, any);
    const int64_t after = page + 1 < end_page ? page + 1 : page + 1 + skipped;
    const auto next =
        after < pages && !run.tile.gather ? find_page<typename Source::T>(run, after, any) : found;
    if (run.tile.direct) {
      page_direct<Source>(run, found, next, base);
    } else {
      widen_page<Source>(run, found.keys, found.values, any);
      page_panels(run, base, next);
    }
  }
}

// ---- merging splits ------------------------------------------------------------------------

// (origin0, sum0, total)[r] = merge of itself and (origin, sum, acc).
static void merge_row(const Run& run, int64_t r, float origin, float sum, const float* acc) {
  if (origin == kNothing) return;
  float* total = run.scratch.total + r * run.width;
  if (run.origin0[r] == kNothing) {
    run.origin0[r] = origin;
    run.sum0[r] = sum;
    std::copy(acc, acc + run.width, total);
    return;
  }
  const float top = std::max(run.origin0[r], origin);
  const float old_factor = exp2_one(run.origin0[r] - top);
  const float new_factor = exp2_one(origin - top);
  run.origin0[r] = top;
  run.sum0[r] = run.sum0[r] * old_factor + sum * new_factor;
  for (int64_t c = 0; c < run.width; c += 16)
    store16(fma(load16(acc + c), set16(new_factor), mul(load16(total + c), set16(old_factor))),
            total + c);
}

// Of the split.
static float sum_of_row(const Run& run, int64_t r) {
  return sum(load16(run.scratch.sums + r * 16));
}

static void write_rows(const Run& run) {
  for (int64_t r = 0; r < run.rows; ++r) {
    const int64_t token = run.segment.row + run.token(r);
    const int64_t head = run.head(r);
    float factor = 1.0f;
    float sum = run.sum0[r];
    if (run.args.sinks != nullptr) {
      const float sink = run.args.sinks[head] * kLog2e;
      const float top = std::max(run.origin0[r], sink);
      factor = exp2_one(run.origin0[r] - top);
      sum = sum * factor + exp2_one(sink - top);
    }
    const F32x16 inverse = set16(factor / sum);
    const float* total = run.scratch.total + r * run.width;
    float* out = run.args.out + token * run.args.out_stride + head * run.value_width;
    int64_t c = 0;
    for (; c + 16 <= run.value_width; c += 16) store16(mul(load16(total + c), inverse), out + c);
    if (c < run.value_width)
      store16_partial(mul(load16(total + c), inverse), out + c, run.value_width - c);
  }
}

static float* partial_row(const Run& run, int64_t split, int64_t r) {
  const int64_t head = run.kv_head + r / run.head_rows;
  const int64_t row = (head * run.tile.splits + split) * run.head_rows + r % run.head_rows;
  return run.tile.partials + row * run.plan.partial_width();
}

// `heads` kv heads of a tile from `kv_head` on: all splits and the result (split < 0), or one split
// into its partials.
void attend_tile(const Plan& plan, const Tile& tile, int64_t kv_head, int64_t heads, int64_t split,
                 const Scratch& scratch) {
  const Run run = make_run(plan, tile, kv_head, heads, scratch);
  pack_queries(run);
  if (tile.gather) visible_slots(run.segment, tile.row, scratch.slots);
  const bool narrow = plan.args->kv.shape.dtype == DType::bf16;
  const auto one_split = narrow ? run_split<Bfloat16> : run_split<Float32>;
  if (split >= 0) {
    one_split(run, tile.first_split + split);
    for (int64_t r = 0; r < run.rows; ++r) {
      float* partial = partial_row(run, split, r);
      partial[0] = run.origin[r];
      partial[1] = sum_of_row(run, r);
      const float* acc = scratch.acc + r * run.width;
      std::copy(acc, acc + run.width, partial + 16);
    }
    return;
  }
  std::fill(run.origin0, run.origin0 + run.rows, kNothing);
  std::fill(run.sum0, run.sum0 + run.rows, 0.0f);
  for (int64_t s = 0; s < tile.splits; ++s) {
    one_split(run, tile.first_split + s);
    for (int64_t r = 0; r < run.rows; ++r)
      merge_row(run, r, run.origin[r], sum_of_row(run, r), scratch.acc + r * run.width);
  }
  write_rows(run);
}

// The result of a tile whose splits lie in its partials.
void finish_tile(const Plan& plan, const Tile& tile, int64_t kv_head, const Scratch& scratch) {
  const Run run = make_run(plan, tile, kv_head, 1, scratch);
  std::fill(run.origin0, run.origin0 + run.rows, kNothing);
  std::fill(run.sum0, run.sum0 + run.rows, 0.0f);
  for (int64_t s = 0; s < tile.splits; ++s) {
    for (int64_t r = 0; r < run.rows; ++r) {
      const float* partial = partial_row(run, s, r);
      merge_row(run, r, partial[0], partial[1], partial + 16);
    }
  }
  write_rows(run);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
