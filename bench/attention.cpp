// Speed of paged attention, as JSON lines.
//   attention [--threads N] [--seconds S] [--shape H/G/K] [--depth N]
// One line per shape and step: a prompt chunk of 512 tokens, a draft window of 5, one token. Every
// figure is the best of several runs, in CPU time when there is one thread; `gflop_s` counts the
// visible keys only, `gb_s` the K/V pages once. Decode walks several sequences that together leave
// the caches.
#include "ops/attention.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "backend/context.h"
#include "base/rng.h"
#include "state/block.h"

namespace heddle {
namespace {

struct Shape {
  int64_t heads, kv_heads, width;
};

struct Options {
  int threads = 1;
  double seconds = 0.3;
  int64_t depth = 16384;
  std::vector<Shape> shapes = {{9, 3, 64}, {16, 8, 64}, {32, 8, 128}, {8, 2, 256}, {4, 1, 256}};
};

double now(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

class Sequence {
 public:
  Sequence(state::BlockPool& pool, const ops::KvShape& shape, int64_t slots) {
    for (const auto& part : {shape.key_part(0), shape.value_part(0)}) {
      for (int64_t p = 0; p < (slots + 63) / 64; ++p) {
        blocks_.push_back(pool.allocate(part.page_bytes(), part.growth));
        auto* values = reinterpret_cast<uint16_t*>(blocks_.back().data());
        for (int64_t i = 0; i < part.page_bytes() / 2; ++i)
          values[i] = f32_to_bf16(
              static_cast<float>(mix64(static_cast<uint64_t>(i)) % 1000) * 1e-3f - 0.5f);
      }
    }
    for (const auto& block : blocks_) pointers_.push_back(block.data());
    views_[0].pages = pointers_.data();
    views_[1].pages = pointers_.data() + pointers_.size() / 2;
  }
  state::StateView view() const { return {views_, 2}; }

 private:
  std::vector<state::BlockRef> blocks_;
  std::vector<std::byte*> pointers_;
  state::PartView views_[2];
};

void measure(const Options& options, backend::Context& ctx, const Shape& shape, int64_t start,
             int64_t tokens) {
  const ops::KvShape kv{shape.kv_heads, shape.width, shape.width, DType::bf16};
  const int64_t bytes = (start + tokens) * shape.kv_heads * shape.width * 4;
  const int64_t count = tokens > 64 ? 1 : std::clamp<int64_t>((int64_t{150} << 20) / bytes, 1, 32);
  state::BlockPool pool;
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int64_t n = 0; n < count; ++n)
    sequences.push_back(std::make_unique<Sequence>(pool, kv, start + tokens));
  Rng rng(1);
  std::vector<float> q(static_cast<size_t>(tokens * shape.heads * shape.width));
  for (float& x : q) x = rng.normal();
  std::vector<float> out(q.size());
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < tokens; ++i) positions.push_back(static_cast<int32_t>(start + i));
  const state::Segment segment{0, start, tokens, 0, {}};
  const state::BatchView batch{tokens, {&segment, 1}, positions};
  double best = 1e30;
  const double begin = now(2);
  do {
    const double before = now(options.threads);
    for (const auto& sequence : sequences) {
      const state::StateView view = sequence->view();
      ops::AttentionArgs args;
      args.kv = {kv, &batch, &view, 0, 1};
      args.heads = shape.heads;
      args.scale = 1 / std::sqrt(static_cast<float>(shape.width));
      args.q = q.data();
      args.out = out.data();
      args.q_stride = args.out_stride = shape.heads * shape.width;
      ops::attention(ctx, args);
    }
    best = std::min(best, (now(options.threads) - before) / static_cast<double>(count));
  } while (now(2) - begin < options.seconds);
  const double keys = static_cast<double>(tokens) *
                      (static_cast<double>(start) + static_cast<double>(tokens + 1) / 2);
  const double flops = 4.0 * static_cast<double>(shape.heads * shape.width) * keys;
  std::printf(
      "{\"bench\":\"attention\",\"shape\":\"%ld/%ld/%ld\",\"start\":%ld,\"tokens\":%ld,"
      "\"threads\":%d,\"us\":%.1f,\"gflop_s\":%.1f,\"gb_s\":%.2f}\n",
      static_cast<long>(shape.heads), static_cast<long>(shape.kv_heads),
      static_cast<long>(shape.width), static_cast<long>(start), static_cast<long>(tokens),
      options.threads, best * 1e6, flops / best / 1e9, static_cast<double>(bytes) / best / 1e9);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const char* value = argv[i + 1];
    if (name == "--threads") options.threads = std::max(1, std::atoi(value));
    if (name == "--seconds") options.seconds = std::atof(value);
    if (name == "--depth") options.depth = std::max(1, std::atoi(value));
    if (name == "--shape") {
      long h = 0, g = 0, k = 0;
      if (std::sscanf(value, "%ld/%ld/%ld", &h, &g, &k) != 3 || h < 1 || g < 1 || k < 1 ||
          h % g != 0) {
        std::fprintf(stderr, "--shape %s: expected heads/kv heads/width, as 9/3/64\n", value);
        return 2;
      }
      options.shapes = {{h, g, k}};
    }
  }
  ThreadPool pool(options.threads);
  backend::Arena scratch;
  backend::Context ctx{pool, scratch};
  for (const Shape& shape : options.shapes) {
    measure(options, ctx, shape, 0, 512);
    measure(options, ctx, shape, 7680, 512);
    measure(options, ctx, shape, options.depth, 5);
    measure(options, ctx, shape, options.depth, 1);
  }
  return 0;
}

}  // namespace
}  // namespace heddle

int main(int argc, char** argv) { return heddle::run(argc, argv); }
