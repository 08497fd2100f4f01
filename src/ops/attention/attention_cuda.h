#pragma once
// Attention on a GPU over pages in bf16 as attention.h lays them out, on the tensor cores: q and
// the probabilities are rounded to bf16, sums, softmax and what is merged are float32.
//
// One row's arithmetic is fixed by its position: pages in order within splits of kSplitPages pages,
// whose (origin, sum, accumulator) are merged in order. Prefill merges in registers, decode from
// memory, by the same functions: the same bits.
//
// All pointers are device memory. Trees of drafts and packed pages are not read: the first are the
// CPU's, the second are unpacked when they come to the device.
#include <cstddef>
#include <cstdint>

#include "backend/cuda/stream.h"
#include "ops/attention/attention.h"

namespace heddle::ops::cuda {

using backend::cuda::Stream;

// Rows [row, row + length) of the batch are positions start, start + 1, ... of one sequence.
struct PagedSegment {
  int64_t row = 0;
  int32_t start = 0;
  int32_t length = 0;
  int64_t first_page = 0;  // of its list in `pages`
};

struct PagedKv {
  KvShape shape;                            // bf16; key and value width 64, 128 or 256, both equal
  const std::byte* const* pages = nullptr;  // lists of blocks, entry p of a sequence: page p
  int64_t key_at = 0;                       // bytes from the start of a block to the key page
  int64_t value_at = 0;                     // and to the value page
  const PagedSegment* segments = nullptr;
  int64_t segment_count = 0;
  // Of the segments: what the grid of a launch covers.
  int64_t longest = 0;  // rows
  int64_t deepest = 0;  // start + length
};

struct StorePagedArgs {
  PagedKv kv;
  const float* k = nullptr;  // [T, G, K], row stride k_stride
  int64_t k_stride = 0;
  const float* v = nullptr;  // [T, G, V], row stride v_stride
  int64_t v_stride = 0;
};
Status store_kv(const Stream& stream, const StorePagedArgs& args);

struct PagedAttentionArgs {
  PagedKv kv;
  int64_t heads = 0;             // H, a multiple of G
  float scale = 1;               // above 0
  float soft_cap = 0;            // s = cap tanh(s / cap); 0: none
  int64_t window = 0;            // W, the row's own key included; 0: all
  const float* sinks = nullptr;  // [H]
  const float* q = nullptr;      // [T, H, K], row stride q_stride, even
  int64_t q_stride = 0;
  float* out = nullptr;  // [T, H, V], row stride out_stride, even
  int64_t out_stride = 0;
  std::byte* workspace = nullptr;  // attention_workspace_bytes
};
bool attention_supported(const KvShape& shape);
// Splits are spread over the chip where longest * H / G is at most this: decode.
constexpr int64_t kDecodeRows = 16;
int64_t attention_workspace_bytes(const PagedAttentionArgs& args);
Status attention(const Stream& stream, const PagedAttentionArgs& args);

}  // namespace heddle::ops::cuda
