// Attention over pages: O = softmax(scale Q K^T) V for tiles of query rows.
//
// A task owns (tile of rows, kv head) or, when a sequence has few rows, (tile, some kv heads, split
// of 512 keys), so that one decoded token keeps every thread busy. A tile's rows are
// tokens x the heads of a group: each K/V page is read once for all of them. Products are
// register-blocked: 6 rows x 2 (AVX2) or 4 (AVX-512) vectors of keys or value columns, reduced one
// dim or key at a time with fused multiply-adds, so every row meets the same order of operations in
// a block of six, alone, or on the diagonal. Few rows read bf16 straight from the page; many rows
// first widen the page into float panels that the first-level cache streams without conflicts.
//
// Floors: decode reads 2 (K + V) bytes per kv head and key, 49/64 of them where pages are packed;
// prefill does 2 (K + V) flops per row and visible key, and one exponential per row and key beside
// them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/denormals.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_tile.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/attention_cpu.cpp"
#include "backend/simd/simd.h"
#include "ops/attention/attention_kernel-inl.h"
#include "ops/attention/attention_store-inl.h"

#if HWY_ONCE
#include "base/check.h"

namespace heddle::ops {

HWY_EXPORT(store_kv_tokens);
HWY_EXPORT(attend_tile);
HWY_EXPORT(finish_tile);

namespace {

using attention_tile::kFewRows;
using attention_tile::Plan;
using attention_tile::Scratch;
using attention_tile::Tile;

// Rows of a prefill tile: enough to pay for widening a page, few enough that queries, scores,
// accumulators and the page stay in the second-level cache.
int64_t tile_rows(const KvShape& shape) {
  return shape.key_width + shape.value_width <= 160 ? 192 : 96;
}
// Multiply-adds that are worth waking another thread for.
constexpr double kParallelWork = 100e3;

struct Task {
  int32_t tile;
  int32_t kv_head;  // first
  int32_t heads;
  int32_t split;  // -1: all
  double work;    // multiply-adds
};
// So many tasks a thread, if the heads allow it, so that the threads finish together.
constexpr int64_t kTasksPerThread = 4;

// Whether row i's ancestors among the segment's rows lie in consecutive slots.
bool consecutive(const state::Segment& segment, int64_t i) {
  for (int64_t row = i; row >= 0; --row)
    if (segment.parent(row) != row - 1) return false;
  return true;
}

void add_tiles(const AttentionArgs& args, int64_t s, int64_t tile_tokens,
               std::vector<Tile>& tiles) {
  const state::Segment& segment = args.kv.batch->segments[static_cast<size_t>(s)];
  const int64_t plain = segment.is_tree() ? segment.committed() : segment.length;
  // Equal parts rather than full tiles and a remainder.
  const int64_t parts = (plain + tile_tokens - 1) / tile_tokens;
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t begin = plain * p / parts;
    tiles.push_back({s, begin, plain * (p + 1) / parts - begin});
  }
  for (int64_t i = plain; i < segment.length; ++i)
    tiles.push_back({s, i, 1, !consecutive(segment, i)});
}

Scratch allocate_scratch(backend::Arena& arena, const Plan& plan) {
  const KvShape& shape = plan.args->kv.shape;
  const int64_t rows = plan.max_rows;
  int64_t longest = 1;
  for (const state::Segment& segment : plan.args->kv.batch->segments)
    longest = std::max(longest, segment.length);
  Scratch scratch;
  scratch.q = arena.allocate<float>(rows * shape.key_width);
  scratch.scores = arena.allocate<float>(rows * 64);
  scratch.acc = arena.allocate<float>(rows * plan.padded_width);
  scratch.total = arena.allocate<float>(rows * plan.padded_width);
  scratch.sums = arena.allocate<float>(rows * 16);
  scratch.stats = arena.allocate<float>(rows * 3);
  scratch.first = arena.allocate<int32_t>(rows);
  scratch.end = arena.allocate<int32_t>(rows);
  scratch.keys = arena.allocate<float>(shape.key_width * 64);
  scratch.values = arena.allocate<float>(64 * ((plan.padded_width + 63) / 64 * 64));
  const int64_t records = plan.max_heads * 64;
  scratch.key_page = arena.allocate<std::byte>(dtype_bytes(shape.dtype, records * shape.key_width));
  scratch.value_page =
      arena.allocate<std::byte>(dtype_bytes(shape.dtype, records * shape.value_width));
  scratch.slots = arena.allocate<int32_t>(longest);
  return scratch;
}

// Completes the tiles (which splits they touch, memory for partial results) and lists the tasks.
std::vector<Task> plan_tasks(backend::Context& ctx, Plan& plan, std::vector<Tile>& tiles) {
  const AttentionArgs& args = *plan.args;
  const KvShape& shape = args.kv.shape;
  constexpr int64_t kSplit = kSplitPages * 64;
  const auto few = [&](const Tile& tile) { return tile.tokens * plan.group <= kFewRows; };
  int64_t parts = 0;  // of tiles with few rows
  for (Tile& tile : tiles) {
    const state::Segment& segment = args.kv.batch->segments[static_cast<size_t>(tile.segment)];
    const int64_t first = args.kv.batch->positions[static_cast<size_t>(segment.row + tile.row)];
    tile.last = first + tile.tokens - 1;
    tile.oldest = args.window > 0 ? std::max<int64_t>(0, first - args.window + 1) : 0;
    tile.first_split = tile.oldest / kSplit;
    tile.splits = tile.last / kSplit - tile.first_split + 1;
    if (few(tile)) parts += tile.splits;
  }
  // Heads that one task takes: a page is then read in longer runs.
  const int64_t wanted = kTasksPerThread * ctx.pool.threads();
  const int64_t groups =
      std::clamp<int64_t>((wanted + parts - 1) / std::max<int64_t>(parts, 1), 1, shape.kv_heads);
  std::vector<Task> tasks;
  for (size_t n = 0; n < tiles.size(); ++n) {
    Tile& tile = tiles[n];
    const int64_t rows = tile.tokens * plan.group;
    const bool split = few(tile) && tile.splits > 1;
    if (split)
      tile.partials =
          ctx.scratch.allocate<float>(shape.kv_heads * tile.splits * rows * plan.partial_width());
    tile.direct = few(tile) && shape.value_width % 16 == 0;
    // A page that is gathered or widened is one head's.
    const int64_t count = tile.direct && !tile.gather ? groups : shape.kv_heads;
    const double per_key = static_cast<double>(rows * (shape.key_width + shape.value_width));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t head = shape.kv_heads * i / count;
      const int64_t heads = shape.kv_heads * (i + 1) / count - head;
      plan.max_rows = std::max(plan.max_rows, heads * rows);
      plan.max_heads = std::max(plan.max_heads, heads);
      const double work = per_key * static_cast<double>(heads);
      const auto add = [&](int64_t s, int64_t keys) {
        tasks.push_back({static_cast<int32_t>(n), static_cast<int32_t>(head),
                         static_cast<int32_t>(heads), static_cast<int32_t>(s),
                         work * static_cast<double>(keys)});
      };
      if (!split) add(-1, tile.last - tile.oldest + 1);
      for (int64_t s = 0; split && s < tile.splits; ++s) add(s, kSplit);
    }
  }
  // Long tasks first, so that the threads finish together.
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return a.work > b.work; });
  return tasks;
}

// fn(index, thread) for every index below n: threads take the next one when they are free. What is
// computed does not depend on who computes it.
template <class F>
void share(ThreadPool& pool, int64_t n, bool parallel, F&& fn) {
  if (!parallel || n <= 1 || pool.threads() == 1) {
    for (int64_t i = 0; i < n; ++i) fn(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  pool.run([&](int thread) {
    for (int64_t i = next++; i < n; i = next++) fn(i, thread);
  });
}

}  // namespace

void cpu::store_kv(backend::Context& ctx, const StoreKvArgs& args) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(store_kv_tokens);
  struct Run {
    int64_t segment, row, tokens;
  };
  std::vector<Run> runs;  // rows of a segment inside one page
  int64_t tokens = 0;
  for (size_t s = 0; s < args.kv.batch->segments.size(); ++s) {
    const state::Segment& segment = args.kv.batch->segments[s];
    for (int64_t i = 0; i < segment.length;) {
      const int64_t n = std::min(segment.length - i, 64 - (segment.start + i) % 64);
      runs.push_back({static_cast<int64_t>(s), i, n});
      i += n;
    }
    tokens += segment.length;
  }
  const KvShape& shape = args.kv.shape;
  const int64_t elements = tokens * shape.kv_heads * (shape.key_width + shape.value_width);
  const auto count = static_cast<int64_t>(runs.size()) * shape.kv_heads;
  share(ctx.pool, count, elements > 16384, [&](int64_t i, int) {
    const Run& run = runs[static_cast<size_t>(i / shape.kv_heads)];
    kernel(args, run.segment, run.row, run.tokens, i % shape.kv_heads);
  });
}

void cpu::attention(backend::Context& ctx, const AttentionArgs& args) {
  const FlushDenormals flush;
  const KvShape& shape = args.kv.shape;
  HEDDLE_CHECK(shape.kv_heads > 0 && args.heads % shape.kv_heads == 0, "heads {} kv heads {}",
               args.heads, shape.kv_heads);
  HEDDLE_CHECK(shape.dtype == DType::bf16 || shape.dtype == DType::f32);
  const backend::ArenaScope scope(ctx.scratch);
  Plan plan;
  plan.args = &args;
  plan.group = args.heads / shape.kv_heads;
  plan.padded_width = (shape.value_width + 15) / 16 * 16;

  // Smaller tiles when there would be too few of them for the threads.
  const int64_t rows = args.kv.batch->tokens * plan.group;
  const int64_t full = tile_rows(shape);
  const bool many = rows * shape.kv_heads >= full * 4 * ctx.pool.threads();
  const int64_t tile_tokens = std::max<int64_t>(1, (many ? full : 48) / plan.group);
  std::vector<Tile> tiles;
  for (size_t s = 0; s < args.kv.batch->segments.size(); ++s)
    add_tiles(args, static_cast<int64_t>(s), tile_tokens, tiles);
  const std::vector<Task> tasks = plan_tasks(ctx, plan, tiles);
  double work = 0;
  for (const Task& task : tasks) work += task.work;
  const bool parallel = work > kParallelWork;
  plan.threads = parallel ? ctx.pool.threads() : 1;

  std::vector<Scratch> scratch;
  for (int64_t t = 0; t < plan.threads; ++t) scratch.push_back(allocate_scratch(ctx.scratch, plan));
  const auto attend = HWY_DYNAMIC_DISPATCH(attend_tile);
  share(ctx.pool, static_cast<int64_t>(tasks.size()), parallel, [&](int64_t i, int thread) {
    const Task& task = tasks[static_cast<size_t>(i)];
    attend(plan, tiles[static_cast<size_t>(task.tile)], task.kv_head, task.heads, task.split,
           scratch[static_cast<size_t>(thread)]);
  });
  const auto finish = HWY_DYNAMIC_DISPATCH(finish_tile);
  std::vector<const Tile*> split;
  for (const Tile& tile : tiles)
    if (tile.partials != nullptr) split.push_back(&tile);
  const auto count = static_cast<int64_t>(split.size()) * shape.kv_heads;
  share(ctx.pool, count, parallel && work > 50 * kParallelWork, [&](int64_t i, int thread) {
    finish(plan, *split[static_cast<size_t>(i / shape.kv_heads)], i % shape.kv_heads,
           scratch[static_cast<size_t>(thread)]);
  });
}

}  // namespace heddle::ops
#endif
