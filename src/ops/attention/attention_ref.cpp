#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/attention/attention.h"
#include "ops/attention/packed_page.h"

namespace heddle::ops {
namespace {

// The value at element `index` of a page.
float load(DType dtype, const std::byte* page, int64_t index) {
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, page + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, page + index * 2, 2);
  return bf16_to_f32(bits);
}

void store(DType dtype, float value, std::byte* page, int64_t index) {
  if (dtype == DType::f32) {
    std::memcpy(page + index * 4, &value, 4);
  } else {
    const uint16_t bits = f32_to_bf16(value);
    std::memcpy(page + index * 2, &bits, 2);
  }
}

struct Row {
  const KvView& kv;
  PlainPages& keys;
  PlainPages& values;
  int64_t segment;
  int64_t first;             // first visible position
  int64_t position;          // its own
  std::vector<int32_t> own;  // slots of positions start, start + 1, ...

  int64_t slot(int64_t j) const {
    const int64_t start = kv.batch->segments[static_cast<size_t>(segment)].start;
    return j < start ? j : own[static_cast<size_t>(j - start)];
  }
  double key(int64_t g, int64_t j, int64_t d) const {
    const int64_t s = slot(j);
    return load(kv.shape.dtype, keys[s / 64], (g * kv.shape.key_width + d) * 64 + s % 64);
  }
  double value(int64_t g, int64_t j, int64_t v) const {
    const int64_t s = slot(j);
    return load(kv.shape.dtype, values[s / 64], kv.shape.value_at(g, s % 64, v));
  }
};

void attend(const AttentionArgs& args, const Row& row, int64_t h, const float* q, float* out) {
  const KvShape& shape = args.kv.shape;
  const int64_t g = h / (args.heads / shape.kv_heads);
  std::vector<double> p;
  for (int64_t j = row.first; j <= row.position; ++j) {
    double s = 0;
    for (int64_t d = 0; d < shape.key_width; ++d) s += q[d] * row.key(g, j, d);
    s *= args.scale;
    if (args.soft_cap > 0) s = args.soft_cap * std::tanh(s / args.soft_cap);
    p.push_back(s);
  }
  double highest = *std::max_element(p.begin(), p.end());
  if (args.sinks != nullptr) highest = std::max<double>(highest, args.sinks[h]);
  double total = args.sinks != nullptr ? std::exp(args.sinks[h] - highest) : 0;
  for (double& s : p) total += s = std::exp(s - highest);
  for (int64_t v = 0; v < shape.value_width; ++v) {
    double o = 0;
    for (int64_t j = row.first; j <= row.position; ++j)
      o += p[static_cast<size_t>(j - row.first)] * row.value(g, j, v);
    out[v] = static_cast<float>(o / total);
  }
}

}  // namespace

void ref::store_kv(backend::Context&, const StoreKvArgs& args) {
  const KvView& kv = args.kv;
  const KvShape& shape = kv.shape;
  for (size_t b = 0; b < kv.batch->segments.size(); ++b) {
    const state::Segment& segment = kv.batch->segments[b];
    const auto index = static_cast<int64_t>(b);
    for (int64_t i = 0; i < segment.length; ++i) {
      const int64_t slot = segment.start + i;
      std::byte* key_page = kv.state->at(index, kv.key_part).page(slot / 64);
      std::byte* value_page = kv.state->at(index, kv.value_part).page(slot / 64);
      const float* k = args.k + (segment.row + i) * args.k_stride;
      const float* v = args.v + (segment.row + i) * args.v_stride;
      for (int64_t e = 0; e < shape.kv_heads * shape.key_width; ++e)
        store(shape.dtype, k[e], key_page, e * 64 + slot % 64);
      for (int64_t g = 0; g < shape.kv_heads; ++g)
        for (int64_t e = 0; e < shape.value_width; ++e)
          store(shape.dtype, v[g * shape.value_width + e], value_page,
                shape.value_at(g, slot % 64, e));
    }
  }
}

void ref::attention(backend::Context&, const AttentionArgs& args) {
  const KvView& kv = args.kv;
  for (size_t b = 0; b < kv.batch->segments.size(); ++b) {
    const state::Segment& segment = kv.batch->segments[b];
    const auto index = static_cast<int64_t>(b);
    PlainPages keys(kv.state->at(index, kv.key_part), kv.shape.key_part(0).page_bytes());
    PlainPages values(kv.state->at(index, kv.value_part), kv.shape.value_part(0).page_bytes());
    for (int64_t i = 0; i < segment.length; ++i) {
      Row row{kv, keys, values, index, 0, 0, {}};
      row.own.resize(static_cast<size_t>(segment.length));
      row.position = segment.start + visible_slots(segment, i, row.own.data()) - 1;
      if (args.window > 0) row.first = std::max<int64_t>(0, row.position - args.window + 1);
      const int64_t t = segment.row + i;
      for (int64_t h = 0; h < args.heads; ++h)
        attend(args, row, h, args.q + t * args.q_stride + h * kv.shape.key_width,
               args.out + t * args.out_stride + h * kv.shape.value_width);
    }
  }
}

}  // namespace heddle::ops
