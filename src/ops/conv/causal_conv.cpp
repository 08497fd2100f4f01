#include "ops/conv/causal_conv.h"

#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace heddle::ops {

namespace {

// Records of a page: a power of two, so that it divides 64.
int64_t page_records(int64_t taps) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(taps - 1)));
}

// The record of a slot; nullptr: its page is not kept.
float* record(const CausalConvArgs& args, int64_t segment, int64_t slot) {
  const int64_t records = page_records(args.taps);
  std::byte* page = args.state->at(segment, args.part).page(slot / records);
  if (page == nullptr) return nullptr;
  return reinterpret_cast<float*>(page) + slot % records * args.channels;
}

}  // namespace

state::StatePart causal_conv_part(std::string name, int64_t channels, int64_t taps) {
  HEDDLE_CHECK(taps >= 2 && taps <= kMaxConvTaps, "taps {}", taps);
  state::StatePart part;
  part.name = std::move(name);
  part.growth = state::Growth::window;
  part.strip = channels;
  part.page_records = page_records(taps);
  part.window = taps - 1;
  return part;
}

std::vector<float> transpose_taps(const std::vector<float>& weights, int64_t channels,
                                  int64_t taps) {
  HEDDLE_CHECK(static_cast<int64_t>(weights.size()) == channels * taps, "{} weights for {} x {}",
               weights.size(), channels, taps);
  std::vector<float> result(weights.size());
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t j = 0; j < taps; ++j)
      result[static_cast<size_t>(j * channels + c)] = weights[static_cast<size_t>(c * taps + j)];
  return result;
}

const float* causal_conv_tap(const CausalConvArgs& args, int64_t segment, int64_t i, int64_t back) {
  const state::Segment& s = args.batch->segments[static_cast<size_t>(segment)];
  while (back > 0 && i >= 0) {
    i = s.parent(i);
    --back;
  }
  if (i >= 0) return args.x + (s.row + i) * args.x_stride;
  const int64_t slot = s.start - 1 - back;
  if (slot < 0) return nullptr;
  const float* x = record(args, segment, slot);
  HEDDLE_CHECK(x != nullptr, "convolution window at slot {} is not kept", slot);
  return x;
}

void causal_conv_store(const CausalConvArgs& args) {
  for (size_t n = 0; n < args.batch->segments.size(); ++n) {
    const state::Segment& s = args.batch->segments[n];
    for (int64_t i = 0; i < s.length; ++i) {
      float* to = record(args, static_cast<int64_t>(n), s.start + i);
      if (to == nullptr) continue;
      std::memcpy(to, args.x + (s.row + i) * args.x_stride,
                  static_cast<size_t>(args.channels) * sizeof(float));
    }
  }
}

void causal_conv(backend::Context& ctx, const CausalConvArgs& args) {
  ctx.reference() ? ref::causal_conv(ctx, args) : cpu::causal_conv(ctx, args);
}

}  // namespace heddle::ops
