#pragma once
// What tests and benches of the kernels hold on the device: sequences with their summaries and open
// pages, and steps over them.
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "test/support/gpu.h"
#include "test/support/linear_recurrence.h"

namespace heddle::test {

using namespace heddle::ops::cuda;  // NOLINT: of what these tests are about

inline void check(const Status& status) {
  EXPECT_TRUE(status) << (status ? "" : status.error().message);
}

// Device memory filled with NaN.
class DeviceBytes {
 public:
  DeviceBytes(backend::cuda::Device& device, const backend::cuda::Stream& stream, int64_t bytes)
      : stream_(&stream), bytes_(bytes) {
    auto mapping = backend::Mapping::of(device.memory(), std::max<int64_t>(bytes, 16), "a test");
    EXPECT_TRUE(mapping) << mapping.error().message;
    if (mapping) mapping_ = std::move(*mapping);
    poison();
  }
  template <class T>
  DeviceBytes(backend::cuda::Device& device, const backend::cuda::Stream& stream,
              const std::vector<T>& values)
      : DeviceBytes(device, stream, static_cast<int64_t>(values.size() * sizeof(T))) {
    check(stream.copy(mapping_.data(), values.data(), bytes_));
    check(stream.wait());
  }

  int64_t bytes() const { return bytes_; }
  void poison() { check(stream_->fill(mapping_.data(), 0xff, bytes_)); }
  template <class T>
  std::vector<T> download() const {
    std::vector<T> x(static_cast<size_t>(bytes_) / sizeof(T));
    check(stream_->copy(x.data(), mapping_.data(), static_cast<int64_t>(x.size() * sizeof(T))));
    check(stream_->wait());
    return x;
  }
  template <class T = std::byte>
  T* as() const {
    return reinterpret_cast<T*>(mapping_.data());
  }

 private:
  const backend::cuda::Stream* stream_;
  backend::Mapping mapping_;
  int64_t bytes_ = 0;
};

enum class Gates { kRandom, kSlow, kExtreme };

inline LinearInputs random_inputs(const LinearShape& s, int64_t tokens, Gates gates,
                                  uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  LinearInputs in;
  in.tokens = tokens;
  const auto rows = [&](std::vector<uint16_t>& x, int64_t heads, int64_t width, float norm) {
    x.resize(static_cast<size_t>(tokens * heads * width));
    std::vector<float> row(static_cast<size_t>(width));
    for (int64_t r = 0; r < tokens * heads; ++r) {
      float sum = 0;
      for (float& y : row) {
        y = normal(rng);
        sum += y * y;
      }
      for (int64_t c = 0; c < width; ++c)
        x[static_cast<size_t>(r * width + c)] =
            f32_to_bf16(row[static_cast<size_t>(c)] * (norm > 0 ? norm / std::sqrt(sum) : 1.0f));
    }
  };
  rows(in.q, s.key_heads, s.key_width, 1.0f / std::sqrt(static_cast<float>(s.key_width)));
  rows(in.k, s.key_heads, s.key_width, 1.0f);
  rows(in.v, s.value_heads, s.value_width, 0.0f);
  in.g.resize(static_cast<size_t>(tokens * s.value_heads * s.gates()));
  for (float& g : in.g) {
    const float x = uniform(rng);
    if (gates == Gates::kRandom) g = std::log(0.02f + 0.98f * x);
    if (gates == Gates::kSlow) g = -2e-3f * x;
    if (gates == Gates::kExtreme) g = x < 0.3f ? 0.0f : x < 0.6f ? -60.0f * x : -1e-4f;
  }
  in.beta.resize(static_cast<size_t>(tokens * s.value_heads));
  for (float& b : in.beta) b = uniform(rng);
  return in;
}

// One sequence on the device and where it stands. Pages are poisoned whenever they are fresh.
struct DeviceSequence {
  DeviceSequence(backend::cuda::Device& device, const backend::cuda::Stream& stream,
                 const LinearShape& s)
      : summary(device, stream, s.summary_floats() * 4),
        next_summary(device, stream, s.summary_floats() * 4),
        open(device, stream, s.open_bytes()),
        next_open(device, stream, s.open_bytes()) {}

  DeviceBytes summary, next_summary, open, next_open;
  int64_t position = 0;

  LinearSegment segment(int64_t row, int64_t length) const {
    LinearSegment x;
    x.row = row;
    x.start = position;
    x.length = static_cast<int32_t>(length);
    x.summary = position >= kLinearFold ? summary.as<const float>() : nullptr;
    x.next_summary = next_summary.as<float>();
    x.open = open.as<>();
    x.next_open = crosses(length) ? next_open.as<>() : open.as<>();
    return x;
  }
  bool crosses(int64_t length) const {
    return (position + length) / kLinearFold != position / kLinearFold;
  }
  void advance(int64_t length) {
    if (crosses(length)) {
      std::swap(summary, next_summary);
      std::swap(open, next_open);
      next_summary.poison();
      next_open.poison();
    }
    position += length;
  }
};

// The rows of a step on the device: those [from, from + length) of each sequence's inputs.
struct DeviceStep {
  DeviceStep(backend::cuda::Device& device, const backend::cuda::Stream& stream,
             const LinearShape& shape, const std::vector<const LinearInputs*>& inputs,
             const std::vector<std::pair<int64_t, int64_t>>& ranges)
      : device_(device), stream_(stream), o(device, stream, 0) {
    LinearInputs all;
    const auto append = [](auto& to, const auto& from, int64_t at, int64_t count, int64_t width) {
      to.insert(to.end(), from.begin() + at * width, from.begin() + (at + count) * width);
    };
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto [from, length] = ranges[i];
      append(all.q, inputs[i]->q, from, length, shape.key_heads * shape.key_width);
      append(all.k, inputs[i]->k, from, length, shape.key_heads * shape.key_width);
      append(all.v, inputs[i]->v, from, length, shape.value_heads * shape.value_width);
      append(all.g, inputs[i]->g, from, length, shape.value_heads * shape.gates());
      append(all.beta, inputs[i]->beta, from, length, shape.value_heads);
      tokens += length;
    }
    buffers.emplace_back(device, stream, all.q);
    buffers.emplace_back(device, stream, all.k);
    buffers.emplace_back(device, stream, all.v);
    buffers.emplace_back(device, stream, all.g);
    buffers.emplace_back(device, stream, all.beta);
    o = DeviceBytes(device, stream, tokens * shape.value_heads * shape.value_width * 2);
    args.shape = shape;
    args.q = buffers[0].as();
    args.k = buffers[1].as();
    args.v = buffers[2].as();
    args.g = buffers[3].as<float>();
    args.g_stride = shape.value_heads * shape.gates();
    args.beta = buffers[4].as<float>();
    args.o = o.as();
  }

  // Segments and chunks of a prefill go to the device with their workspace.
  void lay_out(std::vector<LinearSegment> segments, bool prefill) {
    std::vector<LinearChunk> chunks;
    for (size_t i = 0; i < segments.size(); ++i) {
      segments[i].first_chunk = static_cast<int32_t>(chunks.size());
      for (int64_t c = 0; prefill && c < linear_chunks(segments[i].start, segments[i].length); ++c)
        chunks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(c)});
    }
    buffers.emplace_back(device_, stream_, segments);
    args.segments = buffers.back().as<LinearSegment>();
    args.segment_count = static_cast<int64_t>(segments.size());
    buffers.emplace_back(device_, stream_, chunks);
    args.chunks = buffers.back().as<LinearChunk>();
    args.chunk_count = static_cast<int64_t>(chunks.size());
    buffers.emplace_back(device_, stream_, linear_workspace_bytes(args.shape, args.chunk_count));
    args.workspace = buffers.back().as();
  }

  backend::cuda::Device& device_;
  const backend::cuda::Stream& stream_;
  std::vector<DeviceBytes> buffers;
  DeviceBytes o;
  LinearArgs args;
  int64_t tokens = 0;
};

}  // namespace heddle::test
