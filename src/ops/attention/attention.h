#pragma once
// Causal softmax attention with grouped heads over the pages of the state: query head h reads kv
// head h / (H / G). A row at position p sees the keys at max(0, p - W + 1) .. p of its own
// ancestors (drafts follow their parents). Softmax in float32, "online" (arXiv 1805.02867) in
// page order, relative to an origin that follows the maximum when that is 2^8 times as probable.
//
// Both kernel sets read K and V from the pages, those of the current rows included: store_kv()
// comes first. So the precision of the pages is the precision of every read, in prefill and decode.
//
// One row's arithmetic is fixed by its position alone: pages of 64 keys in order, grouped in splits
// of kSplitPages pages whose (origin, sum, accumulator) are merged in order. Chunking, batch,
// threads and drafts never change its bits.
#include <cstdint>

#include "backend/context.h"
#include "base/dtype.h"
#include "state/batch.h"
#include "state/state_part.h"

namespace heddle::ops {

// The two state parts that attention reads. Keys are transposed, a page is [G][K][64]: strips of
// one element. Values are token-major in bands of S columns, [G][V / S][64][S]: strips of S
// elements, so that a kernel that takes 64 columns at a time reads a page in the order of
// addresses. Pages that are complete may be packed (packed_page.h).
struct KvShape {
  int64_t kv_heads = 0;       // G
  int64_t key_width = 0;      // K
  int64_t value_width = 0;    // V
  DType dtype = DType::bf16;  // or f32

  int64_t value_band() const { return value_width % 64 == 0 ? 64 : value_width; }  // S
  // Element v of head g's value in slot `slot` of a page.
  int64_t value_at(int64_t g, int64_t slot, int64_t v) const {
    const int64_t band = value_band();
    return (g * value_width + v / band * band) * state::kPageTokens + slot * band + v % band;
  }

  // window 0: every record is kept; else the last `window` records before the next token.
  state::StatePart key_part(int64_t window) const;
  state::StatePart value_part(int64_t window) const;
  // Of the keys and values of so many records, in the form that attention reads.
  int64_t held_bytes(int64_t records) const {
    return key_part(0).held_bytes(records) + value_part(0).held_bytes(records);
  }
};

struct KvView {
  KvShape shape;
  const state::BatchView* batch = nullptr;
  const state::StateView* state = nullptr;
  int64_t key_part = 0;  // indices of the two parts in `state`
  int64_t value_part = 1;
};

struct StoreKvArgs {
  KvView kv;
  const float* k = nullptr;  // [T, G, K], row stride k_stride
  int64_t k_stride = 0;
  const float* v = nullptr;  // [T, G, V], row stride v_stride
  int64_t v_stride = 0;
};

struct AttentionArgs {
  KvView kv;
  int64_t heads = 0;  // H, a multiple of G
  float scale = 1;
  float soft_cap = 0;            // s = cap tanh(s / cap); 0: none
  int64_t window = 0;            // W, the row's own key included; 0: all
  const float* sinks = nullptr;  // [H]: logits that take part in the softmax and carry no value
  const float* q = nullptr;      // [T, H, K], row stride q_stride
  int64_t q_stride = 0;
  float* out = nullptr;  // [T, H, V], row stride out_stride
  int64_t out_stride = 0;
};

constexpr int64_t kSplitPages = 8;

namespace ref {
void store_kv(backend::Context& ctx, const StoreKvArgs& args);
void attention(backend::Context& ctx, const AttentionArgs& args);
}  // namespace ref
namespace cpu {
void store_kv(backend::Context& ctx, const StoreKvArgs& args);
void attention(backend::Context& ctx, const AttentionArgs& args);
}  // namespace cpu
void store_kv(backend::Context& ctx, const StoreKvArgs& args);
void attention(backend::Context& ctx, const AttentionArgs& args);

// Slots of the records that row `i` of a segment sees among the segment's own rows: out[n] is the
// slot of logical position start + n, n <= depth of the row. Returns how many. out [length]
int64_t visible_slots(const state::Segment& segment, int64_t i, int32_t* out);

}  // namespace heddle::ops
