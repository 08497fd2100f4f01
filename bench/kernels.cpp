// Speed of the matrix kernels against the limits of this machine, as JSON lines.
//   kernels [--threads N] [--target NAME] [--format NAME] [--shape KxN] [--tokens MOST]
//           [--seconds S] [--quick]
// Every figure is the best of several runs (a limit, not an average), in CPU time when there is
// one thread; `gop_s` counts a
// multiply-add as two, `gb_s` the packed weights once a call.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backend/context.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "ops/matmul.h"

namespace heddle {
namespace {

using Clock = std::chrono::steady_clock;

// CPU time of this thread: what a run on one thread costs however busy the machine is.
double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Options {
  int threads = ThreadPool::available_cpus();
  bool quick = false;
  double seconds = 0.15;  // of runs per figure
  std::string only;       // a format
  int64_t cols = 0;       // with rows: this shape alone
  int64_t rows = 0;
  int64_t most_tokens = 512;
};

double seconds_now(const ThreadPool& pool) {
  if (pool.threads() == 1) return cpu_seconds();
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

template <class F>
double best_seconds(const ThreadPool& pool, double budget, F work) {
  const auto now = [&] { return seconds_now(pool); };
  work();
  double best = 1e9;
  const double start = now();
  do {
    const double begin = now();
    work();
    best = std::min(best, now() - begin);
  } while (now() - start < budget);
  return best;
}

// Random bytes with small scales: speed does not depend on the values, but NaN and subnormal
// scales would.
std::vector<std::byte> random_weights(DType dtype, int64_t rows, int64_t cols) {
  const DTypeInfo& info = dtype_info(dtype);
  std::vector<std::byte> data(static_cast<size_t>(rows * dtype_bytes(dtype, cols)));
  uint64_t state = 1;
  for (size_t i = 0; i + 8 <= data.size(); i += 8) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    std::memcpy(&data[i], &state, 8);
  }
  const uint16_t scale = f32_to_f16(0.01f);
  if (!info.quantized) {
    for (size_t i = 0; i < data.size(); i += info.block_bytes)
      data[i + info.block_bytes - 1] &= std::byte{0x3f};
    return data;
  }
  for (size_t b = 0; b < data.size(); b += info.block_bytes) {
    std::memcpy(&data[b + (dtype == DType::q6_k ? 208 : 0)], &scale, 2);
    if (dtype != DType::q6_k) std::memcpy(&data[b + 2], &scale, 2);
  }
  return data;
}

void read_bandwidth(ThreadPool& pool) {
  const int64_t bytes = int64_t{512} << 20;
  std::vector<uint64_t> data(static_cast<size_t>(bytes / 8), 1);
  std::vector<uint64_t> sums(static_cast<size_t>(pool.threads()) * 8);
  const double seconds = best_seconds(pool, 1.0, [&] {
    pool.parallel_for(bytes / 8, 64, [&](int64_t begin, int64_t end, int thread) {
      uint64_t sum[8] = {};
      for (int64_t i = begin; i < end; i += 8)
        for (int j = 0; j < 8; ++j) sum[j] += data[i + j];
      for (int j = 1; j < 8; ++j) sum[0] += sum[j];
      sums[thread * 8] = sum[0];
    });
  });
  std::printf("{\"limit\": \"read\", \"threads\": %d, \"gb_s\": %.1f}\n", pool.threads(),
              bytes / seconds / 1e9);
}

struct Shape {
  const char* name;
  int64_t cols, rows;
};

void run_shape(backend::Context& ctx, const Options& options, DType dtype, const Shape& shape) {
  const auto data = random_weights(dtype, shape.rows, shape.cols);
  const ops::MatrixSource source{data.data(), dtype, shape.rows, shape.cols, {}};
  const double start = seconds_now(ctx.pool);
  auto packed = ops::pack(ctx.pool, std::vector{source}, {});
  const double pack_seconds = seconds_now(ctx.pool) - start;
  if (!packed) {
    std::fprintf(stderr, "%s\n", packed.error().message.c_str());
    std::exit(1);
  }
  for (const int64_t tokens : {1, 4, 64, 512}) {
    if (tokens > options.most_tokens) continue;
    if (tokens * shape.rows > int64_t{64} << 20) continue;
    std::vector<float> x(static_cast<size_t>(tokens * shape.cols));
    Rng rng(1);
    for (float& v : x) v = rng.normal();
    std::vector<float> y(static_cast<size_t>(tokens * shape.rows));
    const double seconds = best_seconds(
        ctx.pool, options.seconds, [&] { ops::matmul(ctx, x.data(), tokens, *packed, y.data()); });
    std::printf(
        "{\"kernel\": \"matmul\", \"target\": \"%s\", \"threads\": %d, \"format\": \"%s\", \"K\": "
        "%ld, \"N\": %ld, \"T\": %ld, \"us\": %.1f, \"gop_s\": %.1f, \"gb_s\": %.2f, "
        "\"pack_gb_s\": %.2f}\n",
        std::string(active_target()).c_str(), ctx.pool.threads(),
        std::string(dtype_info(dtype).name).c_str(), shape.cols, shape.rows, tokens, seconds * 1e6,
        2e-9 * static_cast<double>(shape.cols * shape.rows * tokens) / seconds,
        static_cast<double>(packed->bytes()) / seconds / 1e9,
        static_cast<double>(data.size()) / pack_seconds / 1e9);
    std::fflush(stdout);
  }
}

int run(const Options& options) {
  ThreadPool pool(options.threads);
  backend::Arena scratch;
  backend::Context ctx{pool, scratch};
  read_bandwidth(pool);
  const Shape shapes[] = {
      {"smollm2 qkv", 576, 960},    {"smollm2 gate up", 576, 3072}, {"smollm2 down", 1536, 576},
      {"smollm2 head", 576, 49152}, {"lfm2 in", 1024, 3072},        {"lfm2 gate up", 1024, 9216},
      {"lfm2 down", 4608, 1024},    {"lfm2 head", 1024, 65536},     {"qwen35 gate up", 1024, 7168},
      {"qwen35 down", 3584, 1024},  {"qwen35 head", 1024, 248320}};
  const Shape one =
      options.cols ? Shape{"given", options.cols, options.rows} : Shape{"lfm2 gate up", 1024, 9216};
  const DType formats[] = {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1,
                           DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k,
                           DType::f16,  DType::bf16, DType::f32};
  for (const DType format : formats) {
    if (!options.only.empty() && dtype_info(format).name != options.only) continue;
    run_shape(ctx, options, format, one);
  }
  if (options.quick || options.cols) return 0;
  for (const Shape& shape : shapes) {
    run_shape(ctx, options, DType::q4_0, shape);
    const bool head = shape.rows > 40000;
    if (head && shape.cols % 256 == 0) run_shape(ctx, options, DType::q6_k, shape);
    if (head) run_shape(ctx, options, DType::q8_0, shape);
  }
  return 0;
}

}  // namespace
}  // namespace heddle

int main(int argc, char** argv) {
  heddle::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (arg == "--quick") {
      options.quick = true;
    } else if (arg == "--threads") {
      options.threads = std::max(1, std::atoi(value)), ++i;
    } else if (arg == "--seconds") {
      options.seconds = std::atof(value), ++i;
    } else if (arg == "--tokens") {  // at most
      options.most_tokens = std::atoll(value), ++i;
    } else if (arg == "--shape") {  // KxN
      if (std::sscanf(value, "%ldx%ld", &options.cols, &options.rows) != 2)
        return std::fprintf(stderr, "--shape %s: expected KxN\n", value), 1;
      ++i;
    } else if (arg == "--format") {
      options.only = value, ++i;
    } else if (arg == "--target") {
      const auto status = heddle::use_target(value);
      if (!status) return std::fprintf(stderr, "%s\n", status.error().message.c_str()), 1;
      ++i;
    } else {
      return std::fprintf(stderr, "unknown argument %s\n", arg.c_str()), 1;
    }
  }
  return heddle::run(options);
}
