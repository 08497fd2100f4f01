// Times of linear attention on a GPU: medians of graph replays, JSON lines on stdout. Prompts read
// more than the L2 cache holds; decode of few sequences rotates over 64 of them as well. A decode
// step's time is the mean over the 64 slots of a fold, fold and writes included.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "base/rng.h"
#include "test/support/gpu_linear_attention.h"

namespace heddle::test {
namespace {

constexpr double kBytesPerMs = 4.25e9;  // copies on an NVIDIA H200, docs/performance/gpu.md

enum class Fill { kUniform, kRandomGates, kSlowGates };

// A block of random values, repeated.
constexpr size_t kPattern = 1000003;
std::vector<float> floats(Fill fill, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x(kPattern);
  for (float& y : x) {
    const auto u = static_cast<float>(rng.unit());
    y = fill == Fill::kUniform       ? u
        : fill == Fill::kRandomGates ? std::log(0.02f + 0.98f * u)
                                     : -2e-3f * u;
  }
  return x;
}
std::vector<uint16_t> halves(float scale, uint64_t seed) {
  std::vector<uint16_t> x(kPattern);
  const std::vector<float> u = floats(Fill::kUniform, seed);
  for (size_t i = 0; i < kPattern; ++i) x[i] = f32_to_bf16((2 * u[i] - 1) * scale);
  return x;
}

struct Bench {
  backend::cuda::Device& device;
  const backend::cuda::Stream& stream;

  DeviceBytes bytes(int64_t count) const { return {device, stream, count}; }
  template <class T>
  void fill(const DeviceBytes& to, const std::vector<T>& pattern) const {
    const auto block = static_cast<int64_t>(pattern.size() * sizeof(T));
    int64_t done = std::min(block, to.bytes());
    check(stream.copy(to.as<>(), pattern.data(), done));
    for (; done < to.bytes(); done += std::min(done, to.bytes() - done))
      check(stream.copy(to.as<>() + done, to.as<>(), std::min(done, to.bytes() - done)));
    check(stream.wait());
  }
};

// Rows of random inputs on the device.
struct Rows {
  Rows(const Bench& gpu, const LinearShape& s, int64_t tokens, Fill gates)
      : q(gpu.bytes(tokens * s.key_heads * s.key_width * 2)),
        k(gpu.bytes(tokens * s.key_heads * s.key_width * 2)),
        v(gpu.bytes(tokens * s.value_heads * s.value_width * 2)),
        o(gpu.bytes(tokens * s.value_heads * s.value_width * 2)),
        g(gpu.bytes(tokens * s.value_heads * s.gates() * 4)),
        beta(gpu.bytes(tokens * s.value_heads * 4)) {
    const float unit = std::sqrt(3.0f / static_cast<float>(s.key_width));
    gpu.fill(q, halves(unit / std::sqrt(static_cast<float>(s.key_width)), 1));
    gpu.fill(k, halves(unit, 2));
    gpu.fill(v, halves(std::sqrt(3.0f), 3));
    gpu.fill(g, floats(gates, 4));
    gpu.fill(beta, floats(Fill::kUniform, 5));
  }
  LinearArgs args(const LinearShape& s) const {
    LinearArgs a;
    a.shape = s;
    a.q = q.as();
    a.k = k.as();
    a.v = v.as();
    a.o = o.as();
    a.g = g.as<float>();
    a.g_stride = s.value_heads * s.gates();
    a.beta = beta.as<float>();
    return a;
  }
  DeviceBytes q, k, v, o, g, beta;
};

// Milliseconds of what `launch` puts on the stream: the median of replays.
double replay(const Bench& gpu, const std::function<Status()>& launch) {
  const auto graph = backend::cuda::Graph::capture(gpu.stream, launch);
  const auto from = backend::cuda::Mark::make(), to = backend::cuda::Mark::make();
  if (!graph || !from || !to) {
    ADD_FAILURE() << (graph ? "no mark" : graph.error().message);
    return 0;
  }
  std::vector<double> times;
  for (int i = 0; i < 13; ++i) {
    check(from->set(gpu.stream));
    check(graph->launch(gpu.stream));
    check(to->set(gpu.stream));
    const auto seconds = to->seconds_since(*from);
    EXPECT_TRUE(seconds) << seconds.error().message;
    if (seconds && i >= 2) times.push_back(1e3 * *seconds);
  }
  std::sort(times.begin(), times.end());
  return times.empty() ? 0 : times[times.size() / 2];
}

void report(const std::string& kernel, const std::string& size, double ms, double bytes) {
  const double floor = bytes / kBytesPerMs;
  std::printf(
      "{\"kernel\": \"%s\", \"size\": \"%s\", \"ms\": %.5f, \"floor_ms\": %.5f, \"share\": %.3f}\n",
      kernel.c_str(), size.c_str(), ms, floor, floor / ms);
  std::fflush(stdout);
}

void bench_prefill(const Bench& gpu, const std::string& name, const LinearShape& s,
                   int64_t sequences, int64_t length, Fill gates) {
  const int64_t tokens = sequences * length;
  const Rows rows(gpu, s, tokens, gates);
  std::vector<DeviceSequence> at;
  std::vector<LinearSegment> segments;
  for (int64_t i = 0; i < sequences; ++i) {
    at.emplace_back(gpu.device, gpu.stream, s);
    segments.push_back(at.back().segment(i * length, length));
  }
  std::vector<LinearChunk> chunks;
  for (int64_t i = 0; i < sequences; ++i) {
    segments[static_cast<size_t>(i)].first_chunk = static_cast<int32_t>(chunks.size());
    for (int64_t c = 0; c < linear_chunks(0, length); ++c)
      chunks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(c)});
  }
  const DeviceBytes device_segments(gpu.device, gpu.stream, segments);
  const DeviceBytes device_chunks(gpu.device, gpu.stream, chunks);
  const DeviceBytes workspace =
      gpu.bytes(linear_workspace_bytes(s, static_cast<int64_t>(chunks.size())));
  LinearArgs args = rows.args(s);
  args.segments = device_segments.as<LinearSegment>();
  args.segment_count = sequences;
  args.chunks = device_chunks.as<LinearChunk>();
  args.chunk_count = static_cast<int64_t>(chunks.size());
  args.workspace = workspace.as();
  const double bytes =
      static_cast<double>(tokens) * static_cast<double>(2 * s.key_heads * s.key_width * 2 +
                                                        2 * s.value_heads * s.value_width * 2 +
                                                        s.value_heads * (s.gates() + 1) * 4);
  const std::string size = std::to_string(sequences) + "x" + std::to_string(length) +
                           (gates == Fill::kSlowGates ? " slow gates" : "");
  const double all = replay(gpu, [&] { return linear_prefill(gpu.stream, args); });
  report(name + " prefill", size, all, bytes);
  LinearArgs without = args;
  without.segment_count = 0;
  const double prepare = replay(gpu, [&] { return linear_prefill(gpu.stream, without); });
  std::printf("# of it prepare %.4f ms, walk %.4f ms\n", prepare, all - prepare);
}

void bench_decode(const Bench& gpu, const std::string& name, const LinearShape& s,
                  int64_t sequences, bool rotate) {
  const int64_t held = rotate ? 64 : 1, tokens = sequences * held;
  const Rows rows(gpu, s, tokens, Fill::kRandomGates);
  std::vector<DeviceSequence> at;
  std::vector<LinearSegment> segments;
  const std::vector<float> summary = floats(Fill::kUniform, 6);
  for (int64_t i = 0; i < tokens; ++i) {
    at.emplace_back(gpu.device, gpu.stream, s);
    const DeviceSequence& x = at.back();
    gpu.fill(x.summary, summary);
    // Finite records: keys, values and decays of any small numbers.
    check(gpu.stream.fill(x.open.as<>(), 0x11, x.open.bytes()));
  }
  // A step is slot `step` of every sequence; with rotation each step another sequence.
  std::vector<DeviceBytes> steps;
  for (int64_t step = 0; step < kLinearFold; ++step) {
    segments.clear();
    for (int64_t i = 0; i < sequences; ++i) {
      DeviceSequence& x = at[static_cast<size_t>(rotate ? step * sequences + i : i)];
      x.position = kLinearFold + step;
      segments.push_back(x.segment(i, 1));
    }
    steps.emplace_back(gpu.device, gpu.stream, segments);
  }
  LinearArgs args = rows.args(s);
  args.segment_count = sequences;
  const double ms = replay(gpu, [&]() -> Status {
    for (int64_t step = 0; step < kLinearFold; ++step) {
      args.segments = steps[static_cast<size_t>(step)].as<LinearSegment>();
      if (auto status = linear_decode(gpu.stream, args); !status) return status;
    }
    return linear_fold(gpu.stream, args);
  });
  const double record =
      s.key_heads * s.key_width * 2 + s.value_heads * (s.value_width * 2 + s.gates() * 4);
  const double state = static_cast<double>(s.summary_floats()) * 4;
  const double bytes = static_cast<double>(sequences) *
                       (state + 31.5 * record + (2 * state + 64 * record) / 64 + record);
  report(name + " decode", std::to_string(sequences) + (rotate ? " cold" : ""), ms / kLinearFold,
         bytes);
}

using LinearBench = test::Gpu;

TEST_F(LinearBench, Times) {
  const Bench gpu{device(), stream()};
  const LinearShape gdn{LinearGate::kHead, LinearWrite::kDelta, 16, 32, 128, 128};
  const LinearShape kda{LinearGate::kChannel, LinearWrite::kDelta, 32, 32, 128, 128};
  const LinearShape lightning{LinearGate::kHead, LinearWrite::kPlain, 32, 32, 128, 128};
  const LinearShape mamba{LinearGate::kHead, LinearWrite::kPlain, 8, 64, 128, 64};
  std::printf("# %s\n", device().info().name.c_str());
  for (const auto& [name, shape] : {std::pair{"gated_delta_net", gdn}, std::pair{"kda", kda}}) {
    bench_prefill(gpu, name, shape, 1, 2048, Fill::kRandomGates);
    bench_prefill(gpu, name, shape, 1, 8192, Fill::kRandomGates);
    bench_prefill(gpu, name, shape, 1, 8192, Fill::kSlowGates);
    bench_prefill(gpu, name, shape, 4, 8192, Fill::kRandomGates);
    bench_prefill(gpu, name, shape, 16, 8192, Fill::kRandomGates);
    bench_prefill(gpu, name, shape, 16, 8192, Fill::kSlowGates);
  }
  bench_prefill(gpu, "lightning", lightning, 1, 8192, Fill::kSlowGates);
  bench_prefill(gpu, "mamba2", mamba, 1, 8192, Fill::kRandomGates);
  for (const auto& [name, shape] :
       {std::pair{"gated_delta_net", gdn}, std::pair{"kda", kda}, std::pair{"lightning", lightning},
        std::pair{"mamba2", mamba}}) {
    bench_decode(gpu, name, shape, 1, false);
    bench_decode(gpu, name, shape, 1, true);
    bench_decode(gpu, name, shape, 32, false);
    bench_decode(gpu, name, shape, 256, false);
  }
}

}  // namespace
}  // namespace heddle::test
