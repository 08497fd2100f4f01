// Launches are recorded in graphs over as many copies of the operands as leave the second level
// cache, and replayed; times are medians of whole replays over the launches in one.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/status.cuh"
#include "backend/cuda/stream.h"
#include "base/dtype.h"
#include "base/rng.h"
#include "bench/gpu_kernels.h"
#include "ops/attention/attention_cuda.h"
#include "ops/elementwise/elementwise_cuda.h"
#include "ops/matmul/matmul_cuda.h"

namespace heddle::bench {
namespace {

using backend::Mapping;
using namespace backend::cuda;

constexpr int kReadThreads = 256;

// The fastest that memory is read: what other kernels are held against.
__global__ void __launch_bounds__(kReadThreads)
    read_kernel(const uint4* from, int64_t count, uint32_t* out) {
  constexpr int kAhead = 8;
  const int64_t stride = int64_t{gridDim.x} * kReadThreads;
  uint32_t total = 0;
  int64_t i = blockIdx.x * int64_t{kReadThreads} + threadIdx.x;
  for (; i + (kAhead - 1) * stride < count; i += kAhead * stride) {
    uint4 v[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) v[n] = __ldcs(from + i + n * stride);
#pragma unroll
    for (int n = 0; n < kAhead; ++n) total |= v[n].x | v[n].y | v[n].z | v[n].w;
  }
  if (total == 1) *out = total;  // never: memory is zero
}

// What one launch cannot do without.
struct GpuWork {
  double bytes = 0;
  double flops = 0;  // of the tensor cores
};

struct GpuCase {
  std::string kernel, shape;
  int64_t tokens = 1;
  GpuWork work;
  int64_t copies = 1;                   // of the operands
  std::function<Status(int64_t)> call;  // with the operands of a copy
};

class GpuSuite {
 public:
  GpuSuite(Device& device, const Stream& stream, const KernelOptions& options, const Output& output)
      : device_(device), stream_(stream), options_(options), output_(output) {}

  const Stream& stream() { return stream_; }
  bool wants(const std::string& kernel, const std::string& shape) const {
    return options_.only.empty() || (kernel + " " + shape).find(options_.only) != std::string::npos;
  }
  // As many copies of `bytes` as are four times the cache.
  int64_t copies(double bytes) const {
    const double wanted = 4.0 * static_cast<double>(device_.info().l2_bytes) / bytes;
    return std::clamp(static_cast<int64_t>(wanted) + 1, int64_t{1}, int64_t{64});
  }
  Result<Mapping> memory(int64_t bytes) { return Mapping::of(device_.memory(), bytes, "a bench"); }
  Result<Mapping> random(int64_t count, bool half);
  Result<double> median_seconds(const GpuCase& c, double* least);
  Status measure(const GpuCase& c);
  Status measure_limits();

 private:
  Device& device_;
  const Stream& stream_;
  const KernelOptions& options_;
  const Output& output_;
  double read_bytes_per_s_ = 0;
  double flops_ = 989e12;  // dense bf16 with float32 sums, of the data sheet
};

// Values of normal size, as floats or bf16: a pattern, repeated by copies on the device.
Result<Mapping> GpuSuite::random(int64_t count, bool half) {
  const int64_t size = half ? 2 : 4;
  HEDDLE_TRY(Mapping mapping, memory(count * size));
  constexpr int64_t kPattern = int64_t{1} << 20;
  std::vector<float> values(static_cast<size_t>(std::min(count, kPattern)));
  std::vector<uint16_t> halves;
  Rng rng(5);
  for (float& value : values) halves.push_back(f32_to_bf16(value = rng.normal()));
  const void* from = half ? static_cast<const void*>(halves.data()) : values.data();
  int64_t filled = std::ssize(values) * size;
  HEDDLE_TRY_STATUS(stream_.copy(mapping.data(), from, filled));
  for (const int64_t all = count * size; filled < all; filled *= 2)
    HEDDLE_TRY_STATUS(
        stream_.copy(mapping.data() + filled, mapping.data(), std::min(filled, all - filled)));
  HEDDLE_TRY_STATUS(stream_.wait());
  return mapping;
}

Result<double> GpuSuite::median_seconds(const GpuCase& c, double* least) {
  const int64_t launches = std::max<int64_t>(c.copies, 8);
  HEDDLE_TRY(const Graph graph, Graph::capture(stream_, [&]() -> Status {
               for (int64_t i = 0; i < launches; ++i) HEDDLE_TRY_STATUS(c.call(i % c.copies));
               return {};
             }));
  HEDDLE_TRY(const Mark begin, Mark::make());
  HEDDLE_TRY(const Mark end, Mark::make());
  std::vector<double> seconds;
  double spent = 0;
  HEDDLE_TRY_STATUS(graph.launch(stream_));
  while (seconds.size() < 5 || (spent < options_.seconds && seconds.size() < 200)) {
    HEDDLE_TRY_STATUS(begin.set(stream_));
    HEDDLE_TRY_STATUS(graph.launch(stream_));
    HEDDLE_TRY_STATUS(end.set(stream_));
    HEDDLE_TRY(const double time, end.seconds_since(begin));
    seconds.push_back(time / static_cast<double>(launches));
    spent += time;
  }
  const Stats stats = stats_of(seconds);
  *least = stats.min;
  return stats.median;
}

Status GpuSuite::measure(const GpuCase& c) {
  double least = 0;
  HEDDLE_TRY(const double median, median_seconds(c, &least));
  const double by_bytes = c.work.bytes / read_bytes_per_s_, by_flops = c.work.flops / flops_;
  const double floor = std::max(by_bytes, by_flops);
  const std::string bound = by_flops > by_bytes ? "bf16 peak" : "read bandwidth";
  const Record record = {{"kernel", c.kernel},
                         {"shape", c.shape},
                         {"tokens", c.tokens},
                         {"device", device_.info().name},
                         {"us", median * 1e6},
                         {"least_us", least * 1e6},
                         {"gb_s", c.work.bytes / median / 1e9},
                         {"tflop_s", c.work.flops / median / 1e12},
                         {"limit_percent", 100 * floor / median},
                         {"limit", bound}};
  output_.line(record,
               fmt::format("{:14} {:38} {:6}  {:10.1f} us {:8.0f} GB/s {:7.1f} TFLOP/s "
                           "{:6.1f}% of {}",
                           c.kernel, c.shape, c.tokens, median * 1e6, c.work.bytes / median / 1e9,
                           c.work.flops / median / 1e12, 100 * floor / median, bound));
  return {};
}

Status GpuSuite::measure_limits() {
  const int64_t bytes = int64_t{4} << 30;
  HEDDLE_TRY(const Mapping from, memory(bytes));
  HEDDLE_TRY(const Mapping to, memory(1));
  GpuCase read;
  read.call = [&](int64_t) {
    read_kernel<<<132 * 8, kReadThreads, 0, static_cast<cudaStream_t>(stream_.handle())>>>(
        reinterpret_cast<const uint4*>(from.data()), bytes / 16,
        reinterpret_cast<uint32_t*>(to.data()));
    return launched("reading");
  };
  double least = 0;
  HEDDLE_TRY(const double seconds, median_seconds(read, &least));
  read_bytes_per_s_ = static_cast<double>(bytes) / seconds;
  const Record limits = {{"device", device_.info().name},
                         {"read_gb_s", read_bytes_per_s_ / 1e9},
                         {"bf16_tflop_s", flops_ / 1e12}};
  output_.line({{"machine", limits}},
               fmt::format("{}: reads {:.0f} GB/s (measured now), bf16 {:.0f} TFLOP/s (data sheet)",
                           device_.info().name, read_bytes_per_s_ / 1e9, flops_ / 1e12));
  return {};
}

float* floats(const Mapping& mapping) { return reinterpret_cast<float*>(mapping.data()); }

Status matmul_case(GpuSuite& suite, int64_t rows, int64_t cols, int64_t tokens) {
  GpuCase c{"matmul", fmt::format("bf16 {}x{}", rows, cols), tokens};
  if (!suite.wants(c.kernel, c.shape)) return {};
  c.work.bytes =
      2.0 * static_cast<double>(rows * cols) + 4.0 * static_cast<double>(tokens * (rows + cols));
  c.work.flops = 2.0 * static_cast<double>(rows * cols) * static_cast<double>(tokens);
  c.copies = suite.copies(2.0 * static_cast<double>(rows * cols));
  HEDDLE_TRY(const Mapping w, suite.random(rows * cols * c.copies, true));
  HEDDLE_TRY(const Mapping x, suite.random(tokens * cols, false));
  HEDDLE_TRY(const Mapping y, suite.memory(tokens * rows * 4));
  HEDDLE_TRY(const Mapping workspace,
             suite.memory(ops::cuda::matmul_workspace_bytes(tokens, cols) + 1));
  c.call = [&](int64_t i) {
    ops::cuda::MatmulBf16Args args{floats(x), cols, tokens};
    args.weights = reinterpret_cast<const uint16_t*>(w.data()) + i * rows * cols;
    args.rows = rows, args.cols = cols, args.y = floats(y), args.y_stride = rows;
    args.workspace = workspace.data();
    return ops::cuda::matmul_bf16(suite.stream(), args);
  };
  return suite.measure(c);
}

// `sequences` that have read `depth` tokens, each with `length` more of them now.
Status attention_case(GpuSuite& suite, int64_t heads, int64_t kv_heads, int64_t width,
                      int64_t sequences, int64_t depth, int64_t length) {
  GpuCase c{length == 1 ? "attention" : "prefill",
            fmt::format("{}/{}x{} {}x{}", heads, kv_heads, width, sequences, depth), length};
  if (!suite.wants(c.kernel, c.shape)) return {};
  const ops::KvShape shape{kv_heads, width, width, DType::bf16};
  const int64_t page = 2 * shape.key_part(0).page_bytes(), pages = (depth + 63) / 64;
  const auto rows = static_cast<double>(sequences * length);
  const double seen = static_cast<double>(depth) - static_cast<double>(length - 1) / 2;
  c.work.bytes = static_cast<double>(sequences * kv_heads * width * depth) * 4 +
                 rows * static_cast<double>(heads * width) * 8;
  c.work.flops = 4 * rows * static_cast<double>(heads * width) * seen;
  HEDDLE_TRY(const Mapping blocks, suite.random(sequences * pages * page / 2, true));
  HEDDLE_TRY(const Mapping q, suite.random(sequences * length * heads * width, false));
  HEDDLE_TRY(const Mapping out, suite.memory(sequences * length * heads * width * 4));
  std::vector<const std::byte*> list;
  std::vector<ops::cuda::PagedSegment> segments;
  for (int64_t s = 0; s < sequences; ++s) {
    segments.push_back({s * length, static_cast<int32_t>(depth - length),
                        static_cast<int32_t>(length), s * pages});
    // Neighbours in the list are none in memory.
    for (int64_t p = 0; p < pages; ++p) list.push_back(blocks.data() + (p * sequences + s) * page);
  }
  HEDDLE_TRY(const Mapping table, suite.memory(std::ssize(list) * 8));
  HEDDLE_TRY(const Mapping ds, suite.memory(sequences * int64_t{sizeof(segments[0])}));
  HEDDLE_TRY_STATUS(suite.stream().copy(table.data(), list.data(), std::ssize(list) * 8));
  HEDDLE_TRY_STATUS(
      suite.stream().copy(ds.data(), segments.data(), sequences * int64_t{sizeof(segments[0])}));
  HEDDLE_TRY_STATUS(suite.stream().wait());
  ops::cuda::PagedAttentionArgs args;
  args.kv = {shape,
             reinterpret_cast<const std::byte* const*>(table.data()),
             0,
             page / 2,
             reinterpret_cast<const ops::cuda::PagedSegment*>(ds.data()),
             sequences,
             length,
             depth};
  args.heads = heads, args.scale = 0.088f;
  args.q = floats(q), args.q_stride = heads * width;
  args.out = floats(out), args.out_stride = heads * width;
  HEDDLE_TRY(const Mapping workspace, suite.memory(ops::cuda::attention_workspace_bytes(args) + 1));
  args.workspace = workspace.data();
  c.call = [&](int64_t) { return ops::cuda::attention(suite.stream(), args); };
  return suite.measure(c);
}

Status elementwise_cases(GpuSuite& suite, int64_t tokens, int64_t width) {
  const auto count = static_cast<double>(tokens * width);
  const std::string shape = std::to_string(width);
  const int64_t copies = suite.copies(8 * count);
  HEDDLE_TRY(const Mapping x, suite.random(2 * tokens * width * copies, false));
  HEDDLE_TRY(const Mapping y, suite.random(tokens * width * copies, false));
  const auto run = [&](const char* kernel, double floats_moved,
                       std::function<Status(int64_t)> call) -> Status {
    if (!suite.wants(kernel, shape)) return {};
    return suite.measure(
        {kernel, shape, tokens, {4 * floats_moved * count, 0}, copies, std::move(call)});
  };
  const auto x_at = [&](int64_t i) { return floats(x) + 2 * i * tokens * width; };
  const auto y_at = [&](int64_t i) { return floats(y) + i * tokens * width; };
  HEDDLE_TRY_STATUS(run("rms_norm", 2, [&](int64_t i) {
    return ops::cuda::rms_norm(suite.stream(),
                               {x_at(i), width, tokens, width, nullptr, 1e-6f, y_at(i), width});
  }));
  HEDDLE_TRY_STATUS(run("add_rms_norm", 4, [&](int64_t i) {
    return ops::cuda::add_rms_norm(suite.stream(), {x_at(i), x_at(i) + tokens * width, tokens,
                                                    width, nullptr, 1e-6f, y_at(i)});
  }));
  return run("gated", 3, [&](int64_t i) {
    return ops::cuda::gated(suite.stream(),
                            {x_at(i), tokens, width, ops::Activation::silu, y_at(i)});
  });
}

}  // namespace

Status run_gpu_kernels(const std::string& name, const KernelOptions& options,
                       const Output& output) {
  HEDDLE_TRY(const auto device, open_device(name));
  HEDDLE_TRY(const Stream stream, Stream::make());
  GpuSuite suite(*device, stream, options, output);
  HEDDLE_TRY_STATUS(suite.measure_limits());
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{4096, 4096},
                                   {14336, 4096},
                                   {4096, 14336},
                                   {151936, 1024},
                                   {1024, 3584}})
    for (const int64_t tokens : {1, 8, 32, 128, 2048})
      HEDDLE_TRY_STATUS(matmul_case(suite, rows, cols, tokens));
  for (const auto& [sequences, depth] :
       {std::pair<int64_t, int64_t>{1, 4096}, {1, 65536}, {16, 65536}, {64, 8192}, {128, 2048}})
    HEDDLE_TRY_STATUS(attention_case(suite, 32, 8, 128, sequences, depth, 1));
  HEDDLE_TRY_STATUS(attention_case(suite, 16, 2, 256, 16, 65536, 1));
  HEDDLE_TRY_STATUS(attention_case(suite, 9, 3, 64, 64, 8192, 1));
  for (const int64_t length : {2048, 8192, 32768})
    HEDDLE_TRY_STATUS(attention_case(suite, 32, 8, 128, 1, length, length));
  HEDDLE_TRY_STATUS(attention_case(suite, 16, 2, 256, 1, 8192, 8192));
  HEDDLE_TRY_STATUS(attention_case(suite, 32, 8, 128, 1, 32768, 2048));
  for (const int64_t tokens : {1, 128, 8192})
    HEDDLE_TRY_STATUS(elementwise_cases(suite, tokens, 4096));
  return {};
}

}  // namespace heddle::bench
