// y = x W^T on the CPU: quantises the activations, splits the tiles among the threads.
//
// A tile of 16 rows is multiplied in order over the whole of k (matmul_float_cpu.cpp,
// matmul_block_cpu.cpp). The chain of one output is the same whatever the kernel, the batch or the
// thread, hence equal bits. Decode streams every tile once (floor: bytes / bandwidth); prompts keep
// tiles in the caches while all tokens pass (floor: multiply-adds / peak).
#include <algorithm>

#include "base/check.h"
#include "base/denormals.h"
#include "ops/matmul/matmul_work.h"

namespace heddle::ops {
namespace {

// First tile of thread `thread`: the work before it is about thread / threads of the whole.
int64_t first_tile(const PackedMatrix::Impl& weights, int64_t tokens, int thread, int threads) {
  // Decode pays for bytes, prefill for multiply-adds, of which every tile has the same.
  const auto cost = [&](const Section& s) { return tokens <= 4 ? s.tile_bytes : int64_t{1}; };
  int64_t total = 0;
  for (const Section& s : weights.sections) total += s.tiles * cost(s);
  int64_t target = total * thread / threads;
  for (const Section& s : weights.sections) {
    if (target < s.tiles * cost(s)) return s.first_tile + target / cost(s);
    target -= s.tiles * cost(s);
  }
  return weights.tiles;
}

// Below this many multiply-adds waking the other threads costs more than they bring.
constexpr int64_t kSerialWork = 32 << 10;
// Below this many activations quantising them on one thread is cheaper than a barrier.
constexpr int64_t kSerialActivations = 16 << 10;

// Tiles [begin, end) of all sections.
void multiply_tiles(const MatmulWork& work, int64_t begin, int64_t end) {
  for (const Section& s : work.weights->sections) {
    const int64_t first = std::max<int64_t>(begin - s.first_tile, 0);
    const int64_t last = std::min(end - s.first_tile, s.tiles);
    if (first >= last) continue;
    s.blocks > 0 ? multiply_blocks(work, s, first, last) : multiply_floats(work, s, first, last);
  }
}

// Room for the activations in int8.
Activations allocate_activations(backend::Arena& scratch, const PackedMatrix::Impl& weights,
                                 int64_t tokens) {
  Activations a;
  a.width = activation_width(tokens);
  a.groups = (tokens + a.width - 1) / a.width;
  a.blocks = weights.cols / 32;
  for (const Section& s : weights.sections) a.used |= Activations::planes_of(s.dtype);
  a.codes = scratch.allocate<int8_t>(a.plane_size() * 32);
  a.planes = scratch.allocate<int32_t>(a.plane_size() * Activations::kPlanes);
  const int64_t counts = a.stretches() * a.groups * a.width;
  a.outliers = scratch.allocate<Outlier>(counts * Activations::kStretchOutliers);
  a.outlier_counts = scratch.allocate<int32_t>(counts);
  return a;
}

}  // namespace

void cpu::matmul(backend::Context& ctx, const MatmulArgs& args) {
  const FlushDenormals flush;
  const PackedMatrix::Impl& weights = args.weights->impl();
  if (args.tokens <= 0) return;
  HEDDLE_CHECK(args.y_stride >= weights.rows || args.tokens == 1, "y stride {} for {} rows",
               args.y_stride, weights.rows);
  const backend::ArenaScope scope(ctx.scratch);
  MatmulWork work{&args, &weights, {}};
  if (weights.any_blocks) {
    work.activations = allocate_activations(ctx.scratch, weights, args.tokens);
    const int64_t groups = work.activations.groups;
    if (args.tokens * weights.cols <= kSerialActivations) {
      quantize_activations(work, 0, groups);
    } else {
      ctx.pool.parallel_for(groups, 1, [&](int64_t begin, int64_t end, int) {
        quantize_activations(work, begin, end);
      });
    }
  }
  const bool serial = weights.rows * weights.cols * args.tokens <= kSerialWork;
  if (serial || ctx.pool.threads() == 1) return multiply_tiles(work, 0, weights.tiles);
  const int threads = ctx.pool.threads();
  ctx.pool.run([&](int thread) {
    multiply_tiles(work, first_tile(weights, args.tokens, thread, threads),
                   first_tile(weights, args.tokens, thread + 1, threads));
  });
}

}  // namespace heddle::ops
