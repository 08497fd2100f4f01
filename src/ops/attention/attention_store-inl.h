// Stores keys and values in the pages of attention_cpu.cpp, compiled once per target.
#include <cstdint>

#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"
#include "base/dtype.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_product-inl.h"

#if defined(HEDDLE_OPS_ATTENTION_STORE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_ATTENTION_STORE_INL_H
#undef HEDDLE_OPS_ATTENTION_STORE_INL_H
#else
#define HEDDLE_OPS_ATTENTION_STORE_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

static HWY_INLINE void store16_as(F32x16 x, float* p) { store16(x, p); }
static HWY_INLINE void store16_as(F32x16 x, uint16_t* p) { store16_bf16(x, p); }
static HWY_INLINE void store_as(float x, float* p) { *p = x; }
static HWY_INLINE void store_as(float x, uint16_t* p) { *p = f32_to_bf16(x); }

// `tokens` rows from `row` of a segment, all in one page, one head. Keys are transposed 16 tokens
// at a time, so that the lines of their rows stay in the first-level cache.
template <class T>
static void store_tokens(const StoreKvArgs& args, int64_t s, int64_t row, int64_t tokens,
                         int64_t g) {
  const KvView& kv = args.kv;
  const state::Segment& segment = kv.batch->segments[static_cast<size_t>(s)];
  const int64_t slot = segment.start + row;
  const int64_t key_width = kv.shape.key_width;
  const int64_t value_width = kv.shape.value_width;
  auto* keys = reinterpret_cast<T*>(kv.state->at(s, kv.key_part).page(slot / kPage)) +
               g * key_width * kPage + slot % kPage;
  auto* values = reinterpret_cast<T*>(kv.state->at(s, kv.value_part).page(slot / kPage)) +
                 kv.shape.value_at(g, slot % kPage, 0);
  const float* k = args.k + (segment.row + row) * args.k_stride + g * key_width;
  const float* v = args.v + (segment.row + row) * args.v_stride + g * value_width;
  int64_t t = 0;
  for (; t + 16 <= tokens; t += 16) {
    for (int64_t d = 0; d < key_width; ++d) {
      HWY_ALIGN float column[16];
      for (int64_t j = 0; j < 16; ++j) column[j] = k[(t + j) * args.k_stride + d];
      store16_as(load16(column), keys + d * kPage + t);
    }
  }
  for (; t < tokens; ++t)
    for (int64_t d = 0; d < key_width; ++d)
      store_as(k[t * args.k_stride + d], keys + d * kPage + t);
  const int64_t band = kv.shape.value_band();
  for (t = 0; t < tokens; ++t, v += args.v_stride, values += band) {
    for (int64_t c0 = 0; c0 < value_width; c0 += band) {
      int64_t c = 0;
      for (; c + 16 <= band; c += 16) store16_as(load16(v + c0 + c), values + c0 * kPage + c);
      for (; c < band; ++c) store_as(v[c0 + c], values + c0 * kPage + c);
    }
  }
}

void store_kv_tokens(const StoreKvArgs& args, int64_t segment, int64_t row, int64_t tokens,
                     int64_t kv_head) {
  if (args.kv.shape.dtype == DType::bf16)
    store_tokens<uint16_t>(args, segment, row, tokens, kv_head);
  else
    store_tokens<float>(args, segment, row, tokens, kv_head);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
