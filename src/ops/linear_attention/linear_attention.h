#pragma once
// What recurrent mixers share: for every value head a state S [K, V], for every token
//
//   S <- D S                                     D = e^g or diag(e^g), g <= 0   (Decay)
//   u = beta (v - S^T k)   or   u = beta v       the delta rule corrects, the others only add
//   S <- S + k u^T
//   o = S^T q + skip v
//
// and between them nothing but where k, q, v, g and beta come from and what becomes of o: the Rule.
// A mixer writes its rule twice, in a few lines each: in precision T for the specification
// (recurrence.h says what it has to answer) and over rows of lanes for the fast kernels
// (chunk-inl.h). Walk, folds, trees of drafts, chunk algebra, tiles and the way a step is shared
// out are here, once.
//
//   shape.h         sizes; layouts of records and summaries; flops and bytes
//   walk.h          a segment's way over fold blocks, and ancestors: what all kernel sets share
//   recurrence.h    token by token, any precision: specification and measure of errors
//   chunk-inl.h     a key head's way through a segment, in panels of 16 columns of S
//   fold-inl.h      the fold of a block
//   tiles-inl.h     the register tiles of both
//   rows-inl.h      rows of q, k and v as most rules make them
//   gated_norm-inl.h  what most rules make of o
//
// Gated DeltaNet: arXiv 2412.06464; chunk form of the delta rule: arXiv 2406.06484; decay per
// channel: arXiv 2312.06635 (gated linear attention), 2510.26692 (Kimi delta attention).
#include <algorithm>
#include <cstdint>

#include "backend/context.h"
#include "ops/linear_attention/scratch.h"
#include "ops/linear_attention/shape.h"
#include "ops/linear_attention/walk.h"
#include "state/batch.h"

namespace heddle::ops::linear_attention {

// What every mixer's arguments begin with.
struct FoldArgs {
  const FoldShape* shape = nullptr;
  const state::BatchView* batch = nullptr;
  const state::StateView* state = nullptr;
  int64_t part = 0;  // index of the folded part in the mixer's state
  float* y =
      nullptr;  // [T, HV V], what the rule makes of o; not overlapping anything that it reads
};

// A row as rules are asked about it.
struct Row {
  int64_t segment = 0;
  int64_t index = 0;  // in the segment
  int64_t batch = 0;  // in the batch
};

// What a rule finishes at once: a value head of a row, or all heads of a row (a norm over them).
enum class Finish : uint8_t { head, row };

// How a step is shared out. Task = (key head, split, segment), segments innermost, so that the
// threads' contiguous ranges get alike loads from ragged batches.
template <class Args>
struct Plan {
  const Args* args = nullptr;
  int64_t splits = 1;  // of a key head's panels
  // [T, HV, Vp]: o waits here for the rule to finish it; nullptr: every task finishes its own.
  float* o = nullptr;
  // [T, HK, Kp + gates, padded]: keys and gates of the rows that are kept wait here until every
  // split has read the records that they overwrite; nullptr: nobody reads those.
  float* late = nullptr;

  static int64_t late_width(const FoldShape& shape) {
    return shape.key_pad() + pad_lanes(shape.gates());
  }
  float* late_at(int64_t row, int64_t key_head) const {
    const FoldShape& shape = *args->shape;
    return late + (row * shape.key_heads + key_head) * late_width(shape);
  }
};

// Splits a key head's panels only where there are too few heads for the threads.
int64_t choose_splits(const FoldArgs& args, int64_t threads);
// Whether some segment goes on beyond the end of a fold block.
bool crosses_blocks(const FoldArgs& args);

// Moves what waits in plan.late to the records.
template <class Args>
void store_late(const Plan<Args>& plan) {
  const Args& args = *plan.args;
  const FoldShape& shape = *args.shape;
  for (size_t n = 0; n < args.batch->segments.size(); ++n) {
    const state::Segment& segment = args.batch->segments[n];
    FoldWalk walk(segment, args.state->at(static_cast<int64_t>(n), args.part), shape.fold);
    for (FoldSpan span; walk.next(span);) {
      for (int64_t i = 0; span.keeps && i < span.tokens * shape.key_heads; ++i) {
        const int64_t t = i / shape.key_heads, head = i % shape.key_heads;
        const float* from = plan.late_at(segment.row + span.row + t, head);
        float* strip = span.records + shape.strip_at(head, span.slot + t);
        std::copy_n(from, shape.key_pad(), strip);
        std::copy_n(from + shape.key_pad(), pad_lanes(shape.gates()), strip + shape.strip_gates());
      }
    }
  }
}

// The fast kernels of a rule for the target in use: kernels() of chunk-inl.h.
template <class Args>
struct Kernels {
  // Tasks [begin, end) with Scratch::floats of scratch.
  void (*tasks)(const Plan<Args>& plan, int64_t begin, int64_t end, float* scratch);
  Finish unit;
  // [begin, end) of T x HV or T: what the rule finishes at once, out of plan.o.
  void (*finish)(const Plan<Args>& plan, int64_t begin, int64_t end);
};

// A step of a rule: o, records and summaries; a convolution's records are the caller's.
template <class Args>
void run_step(backend::Context& ctx, const Args& args, const Kernels<Args>& kernels) {
  const auto segments = static_cast<int64_t>(args.batch->segments.size());
  if (segments == 0) return;
  const FoldShape& shape = *args.shape;
  const bool rows = kernels.unit == Finish::row;
  const int64_t tokens = args.batch->tokens;
  const backend::ArenaScope scope(ctx.scratch);
  Plan<Args> plan;
  plan.args = &args;
  plan.splits = choose_splits(args, ctx.pool.threads());
  if (plan.splits > 1 || rows)
    plan.o = ctx.scratch.allocate<float>(tokens * shape.value_heads * shape.value_pad());
  if (plan.splits > 1 && crosses_blocks(args))
    plan.late =
        ctx.scratch.allocate<float>(tokens * shape.key_heads * Plan<Args>::late_width(shape));
  const int64_t floats = Scratch::floats(shape);
  auto* scratch = ctx.scratch.allocate<float>(floats * ctx.pool.threads());
  ctx.pool.parallel_for(shape.key_heads * plan.splits * segments, 1,
                        [&](int64_t begin, int64_t end, int thread) {
                          kernels.tasks(plan, begin, end, scratch + thread * floats);
                        });
  if (plan.late != nullptr) store_late(plan);
  if (plan.o != nullptr)
    ctx.pool.parallel_for(
        rows ? tokens : tokens * shape.value_heads, 1,
        [&](int64_t begin, int64_t end, int) { kernels.finish(plan, begin, end); });
}

}  // namespace heddle::ops::linear_attention
