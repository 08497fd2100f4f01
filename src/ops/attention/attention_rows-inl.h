// The rows of a tile: what they see, their queries, scores to probabilities. Compiled once per
// target.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_product-inl.h"
#include "ops/attention/attention_tile.h"

#if defined(HEDDLE_OPS_ATTENTION_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_ATTENTION_ROWS_INL_H
#undef HEDDLE_OPS_ATTENTION_ROWS_INL_H
#else
#define HEDDLE_OPS_ATTENTION_ROWS_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

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

// Whether every row sees every key of the page: limits grow with the row.
static bool all_see_all(const Run& run, int64_t base) {
  return seen(run, run.head_rows - 1, base).begin == 0 && seen(run, 0, base).end == kPage;
}

static HWY_NOINLINE void softmax_page(const Run& run, int64_t base) {
  const bool whole = all_see_all(run, base);
  for (int64_t r = 0; r < run.rows; ++r) {
    if (whole && run.args.soft_cap <= 0)
      softmax_vectors<kPage / 16>(run, r, run.scratch.scores + r * kPage);
    else
      softmax_row(run, r, base);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
