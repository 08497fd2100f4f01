// The kernels of attention_cpu.cpp, compiled once per target.
#include <algorithm>
#include <cstdint>

#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_page-inl.h"
#include "ops/attention/attention_rows-inl.h"
#include "ops/attention/attention_tile.h"

#if defined(HEDDLE_OPS_ATTENTION_KERNEL_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_ATTENTION_KERNEL_INL_H
#undef HEDDLE_OPS_ATTENTION_KERNEL_INL_H
#else
#define HEDDLE_OPS_ATTENTION_KERNEL_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

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
  // Where packed records lie stands in memory that the layers before have hardly left in a cache.
  // (The values' entry is beside the keys'.)
  const state::PartView& keys = run.args.kv.state->at(run.tile.segment, run.args.kv.key_part);
  for (int64_t page = first_page; page < end_page; ++page) keys.prefetch(page);
  for (int64_t page = first_page; page < end_page; ++page) {
    const int64_t base = page * kPage;
    const Seen any = seen_by_any(run, 0, run.rows, base);
    const auto found = find_page<typename Source::T>(run, page, any);
    const int64_t after = page + 1 < end_page ? page + 1 : page + 1 + skipped;
    const auto next =
        after < pages && !run.tile.gather ? find_page<typename Source::T>(run, after, any) : found;
    const HeadPage read = readable(run, found, base);
    if (run.tile.direct) {
      page_direct<Source>(run, read, next, base);
    } else {
      widen_page<Source>(run, read, any);
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
