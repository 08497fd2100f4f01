#include "ops/attention/attention.h"

#include <algorithm>

#include "ops/attention/packed_page.h"

namespace heddle::ops {
namespace {

state::StatePart part(const char* name, const KvShape& shape, int64_t window) {
  state::StatePart part;
  part.name = name;
  part.growth = window > 0 ? state::Growth::window : state::Growth::per_token;
  part.dtype = shape.dtype;
  part.window = window;
  return part;
}

}  // namespace

state::StatePart KvShape::key_part(int64_t window) const {
  state::StatePart result = part("k", *this, window);
  result.strips = kv_heads * key_width;
  result.strip = 1;
  if (dtype == DType::bf16) result.codec = page_codec(key_width);
  return result;
}

state::StatePart KvShape::value_part(int64_t window) const {
  state::StatePart result = part("v", *this, window);
  result.strips = kv_heads * value_width / value_band();
  result.strip = value_band();
  if (dtype == DType::bf16 && value_band() == 64) result.codec = page_codec(value_width);
  return result;
}

int64_t visible_slots(const state::Segment& segment, int64_t i, int32_t* out) {
  int64_t n = 0;
  for (int64_t row = i; row >= 0; row = segment.parent(row))
    out[n++] = static_cast<int32_t>(segment.start + row);
  std::reverse(out, out + n);
  return n;
}

void store_kv(backend::Context& ctx, const StoreKvArgs& args) {
  ctx.reference() ? ref::store_kv(ctx, args) : cpu::store_kv(ctx, args);
}

void attention(backend::Context& ctx, const AttentionArgs& args) {
  ctx.reference() ? ref::attention(ctx, args) : cpu::attention(ctx, args);
}

}  // namespace heddle::ops
