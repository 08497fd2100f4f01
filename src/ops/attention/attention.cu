#include <algorithm>

#include "backend/cuda/status.cuh"
#include "base/check.h"
#include "ops/attention/attention_page.cuh"

namespace heddle::ops::cuda {
namespace {

constexpr int kSplit = static_cast<int>(kSplitPages);

// Keys and values of one page of one segment and head, a block: slots are neighbours in memory.
__global__ void __launch_bounds__(256)
    store_kernel(const StorePagedArgs args, int key_width, int value_width) {
  const PagedSegment segment = args.kv.segments[blockIdx.z];
  const int page = segment.start / kPage + static_cast<int>(blockIdx.x);
  const int begin = max(segment.start, page * kPage);
  const int end = min(segment.start + segment.length, (page + 1) * kPage);
  if (begin >= end) return;
  const int64_t g = blockIdx.y;
  std::byte* block = const_cast<std::byte*>(args.kv.pages[segment.first_page + page]);
  auto* keys = reinterpret_cast<__nv_bfloat16*>(block + args.kv.key_at) + g * key_width * kPage;
  auto* values =
      reinterpret_cast<__nv_bfloat16*>(block + args.kv.value_at) + g * value_width * kPage;
  const int64_t row = segment.row - segment.start;
  for (int i = threadIdx.x; i < key_width * kPage; i += 256) {
    const int slot = page * kPage + i % kPage, d = i / kPage;
    if (slot >= begin && slot < end)
      keys[i] = __float2bfloat16_rn(args.k[(row + slot) * args.k_stride + g * key_width + d]);
  }
  for (int i = threadIdx.x; i < value_width * kPage; i += 256) {
    const int slot = page * kPage + i / value_width, e = i % value_width;
    if (slot >= begin && slot < end)
      values[(e / 64 * kPage + slot % kPage) * 64 + e % 64] =
          __float2bfloat16_rn(args.v[(row + slot) * args.v_stride + g * value_width + e]);
  }
}

struct Pages {
  const std::byte* const* list;
  int64_t key_at, value_at;
  __device__ const std::byte* keys(int page) const { return list[page] + key_at; }
  __device__ const std::byte* values(int page) const { return list[page] + value_at; }
};

template <int kWidth>
__device__ inline Pages pages_of(const AttentionProblem& p, const PagedSegment& segment, int g) {
  const int64_t head = int64_t{g} * kWidth * kPage * 2;
  return {p.pages + segment.first_page, p.key_at + head, p.value_at + head};
}

// The first page that a row at `position` sees.
__device__ inline int first_page(const AttentionProblem& p, int position) {
  return p.window == 0 ? 0 : max(0, position - p.window + 1) / kPage;
}

// A warp is a block: one split of one kv head of one segment whose rows, times the group, are at
// most sixteen. Keys and values come in turns through three tiles, two of them under way.
template <int kWidth>
__global__ void __launch_bounds__(32) decode_kernel(const AttentionProblem p) {
  constexpr int kTileBytes = kWidth * kPage * 2;
  extern __shared__ __align__(128) std::byte shared[];
  const PagedSegment segment = p.segments[blockIdx.z];
  const int g = blockIdx.y, rows = segment.length * p.group;
  const int slots = segment.start + segment.length;
  const int last = (slots - 1) / kPage;
  const int begin = max(static_cast<int>(blockIdx.x) * kSplit, first_page(p, segment.start));
  const int end = min((static_cast<int>(blockIdx.x) + 1) * kSplit, last + 1);
  if (begin >= end) return;
  const Pages pages = pages_of<kWidth>(p, segment, g);
  const auto fetch = [&](int tile) {  // 2 n: the keys of page begin + n; 2 n + 1: its values
    const int page = begin + tile / 2;
    if (page < end && tile % 2 == 0)
      fetch_tile<32>(shared + tile % 3 * kTileBytes, pages.keys(page), kWidth);
    else if (page < end)
      fetch_tile<32>(shared + tile % 3 * kTileBytes, pages.values(page), kWidth,
                     slots - page * kPage);
    close_copies();
  };
  fetch(0);
  fetch(1);
  Queries<kWidth> q;
  q.load(p, segment, g, 0, rows);
  const int lane = threadIdx.x;
  const int position[2] = {segment.start + lane / 4 / p.group,
                           segment.start + (lane / 4 + 8) / p.group};
  Softmax<kWidth> state;
  state.clear();
  int tile = 0;
  for (int page = begin; page < end; ++page) {
    float s[kPage / 8][4];
    fetch(tile + 2);
    wait_copies<2>();
    __syncwarp();
    page_scores(q, shared + tile % 3 * kTileBytes, s);
    __syncwarp();
    page_probabilities(p, page * kPage, segment.start, slots - 1, position, s, state);
    ++tile;
    fetch(tile + 2);
    wait_copies<2>();
    __syncwarp();
    page_values(s, shared + tile % 3 * kTileBytes, state);
    __syncwarp();
    ++tile;
  }
  state.finish_split();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = lane / 4 + r * 8;
    if (row >= rows) continue;
    const int head = g * p.group + row % p.group;
    float* out = p.partial +
                 (((int64_t{blockIdx.z} * p.longest + row / p.group) * p.heads + head) * p.splits +
                  blockIdx.x) *
                     (kWidth + 2);
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n)
      *reinterpret_cast<float2*>(out + n * 8 + 2 * (lane % 4)) =
          make_float2(state.o[n][2 * r], state.o[n][2 * r + 1]);
    if (lane % 4 == 0) out[kWidth] = state.origin[r], out[kWidth + 1] = state.sum[r];
  }
}

// One head of one row a block, one column a thread.
template <int kWidth>
__global__ void __launch_bounds__(kWidth) merge_kernel(const AttentionProblem p) {
  constexpr int kAhead = 8;  // loads under way
  const PagedSegment segment = p.segments[blockIdx.z];
  const int token = blockIdx.y, head = blockIdx.x, column = threadIdx.x;
  if (token >= segment.length) return;
  const int position = segment.start + token;
  const int begin = first_page(p, position) / kSplit, end = position / kPage / kSplit + 1;
  const float* partial = p.partial + ((int64_t{blockIdx.z} * p.longest + token) * p.heads + head) *
                                         p.splits * (kWidth + 2);
  float origin = -INFINITY, sum = 0, total = 0;
  for (int s = begin; s < end; s += kAhead) {
    float o[kAhead], origins[kAhead], sums[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float* from = partial + int64_t{min(s + i, end - 1)} * (kWidth + 2);
      o[i] = from[column], origins[i] = from[kWidth], sums[i] = from[kWidth + 1];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (s + i >= end) break;
      const Merge merge(origin, origins[i]);
      origin = merge.origin;
      sum = merge.of(sum, sums[i]);
      total = merge.of(total, o[i]);
    }
  }
  float scale;
  const float by = divisor(origin, sum, p.sinks, head, &scale);
  p.out[(segment.row + token) * p.out_stride + int64_t{head} * kWidth + column] =
      __fdiv_rn(__fmul_rn(total, scale), by);
}

// 128 rows of one kv head of one segment a block, sixteen a warp; kColumns of the values.
constexpr int kWarps = 8;

template <int kWidth, int kColumns>
__global__ void __launch_bounds__(kWarps * 32, 1) prefill_kernel(const AttentionProblem p) {
  constexpr int kKeyBytes = kWidth * kPage * 2, kValueBytes = kColumns * kPage * 2;
  constexpr int kStage = kKeyBytes + kValueBytes;
  extern __shared__ __align__(128) std::byte shared[];
  constexpr int kPasses = kWidth / kColumns;
  const PagedSegment segment = p.segments[blockIdx.z];
  const int g = blockIdx.y / kPasses, pass = blockIdx.y % kPasses;
  const int rows = segment.length * p.group;
  // Long rows first.
  const int tiles = (rows + kWarps * 16 - 1) / (kWarps * 16);
  const int tile_row = (tiles - 1 - static_cast<int>(blockIdx.x)) * kWarps * 16;
  if (tile_row < 0) return;
  const int lane = threadIdx.x % 32, warp_row = tile_row + threadIdx.x / 32 * 16;
  const int begin = first_page(p, segment.start + tile_row / p.group);
  const int end = (segment.start + (min(rows, tile_row + kWarps * 16) - 1) / p.group) / kPage + 1;
  const Pages pages = pages_of<kWidth>(p, segment, g);
  const auto fetch = [&](int page) {
    std::byte* stage = shared + page % 2 * kStage;
    if (page < end) {
      fetch_tile<kWarps * 32>(stage, pages.keys(page), kWidth);
      fetch_tile<kWarps * 32>(stage + kKeyBytes, pages.values(page) + pass * kValueBytes, kColumns,
                              segment.start + segment.length - page * kPage);
    }
    close_copies();
  };
  fetch(begin);
  Queries<kWidth> q;
  q.load(p, segment, g, warp_row, rows);
  const int position[2] = {segment.start + (warp_row + lane / 4) / p.group,
                           segment.start + (warp_row + lane / 4 + 8) / p.group};
  const int warp_first = segment.start + warp_row / p.group;
  const int warp_last = segment.start + (warp_row + 15) / p.group;
  Softmax<kColumns> state, total;
  state.clear();
  total.clear();
  for (int page = begin; page < end; ++page) {
    wait_copies<0>();
    __syncthreads();
    fetch(page + 1);
    const std::byte* stage = shared + page % 2 * kStage;
    if (page * kPage <= warp_last) {
      float s[kPage / 8][4];
      page_scores(q, stage, s);
      page_probabilities(p, page * kPage, warp_first, warp_last, position, s, state);
      page_values(s, stage + kKeyBytes, state);
    }
    if ((page + 1) % kSplit != 0 && page + 1 != end) continue;
    state.finish_split();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Merge merge(total.origin[r], state.origin[r]);
      total.origin[r] = merge.origin;
      total.sum[r] = merge.of(total.sum[r], state.sum[r]);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
        for (int i = 2 * r; i < 2 * r + 2; ++i)
          total.o[n][i] = merge.of(total.o[n][i], state.o[n][i]);
    }
    state.clear();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = warp_row + lane / 4 + r * 8;
    if (row >= rows) continue;
    const int head = g * p.group + row % p.group;
    float scale;
    const float by = divisor(total.origin[r], total.sum[r], p.sinks, head, &scale);
    float* out = p.out + (segment.row + row / p.group) * p.out_stride + int64_t{head} * kWidth +
                 pass * kColumns + 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
      *reinterpret_cast<float2*>(out + n * 8) =
          make_float2(__fdiv_rn(__fmul_rn(total.o[n][2 * r], scale), by),
                      __fdiv_rn(__fmul_rn(total.o[n][2 * r + 1], scale), by));
  }
}

int64_t splits_of(const PagedKv& kv) {
  return (kv.deepest + kPage * kSplit - 1) / (kPage * kSplit);
}
bool decodes(const PagedAttentionArgs& args) {
  return args.kv.longest * (args.heads / args.kv.shape.kv_heads) <= kDecodeRows;
}

template <int kWidth>
Status decode(const AttentionProblem& p, const PagedKv& kv, cudaStream_t stream) {
  constexpr int kBytes = 3 * kWidth * kPage * 2;
  HEDDLE_TRY_STATUS(
      status_of(cudaFuncSetAttribute(decode_kernel<kWidth>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                "preparing attention"));
  const auto segments = static_cast<unsigned>(kv.segment_count);
  const dim3 grid(static_cast<unsigned>(p.splits), static_cast<unsigned>(p.kv_heads), segments);
  decode_kernel<kWidth><<<grid, 32, kBytes, stream>>>(p);
  HEDDLE_TRY_STATUS(launched("attention"));
  const dim3 rows(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.longest), segments);
  merge_kernel<kWidth><<<rows, kWidth, 0, stream>>>(p);
  return launched("merging the splits of attention");
}

template <int kWidth>
Status prefill(const AttentionProblem& p, const PagedKv& kv, cudaStream_t stream) {
  constexpr int kColumns = kWidth == 256 ? 64 : kWidth;
  constexpr int kBytes = 2 * (kWidth + kColumns) * kPage * 2;
  HEDDLE_TRY_STATUS(
      status_of(cudaFuncSetAttribute(prefill_kernel<kWidth, kColumns>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                "preparing attention"));
  const int64_t rows = kv.longest * p.group;
  const dim3 grid(static_cast<unsigned>((rows + kWarps * 16 - 1) / (kWarps * 16)),
                  static_cast<unsigned>(p.kv_heads * (kWidth / kColumns)),
                  static_cast<unsigned>(kv.segment_count));
  prefill_kernel<kWidth, kColumns><<<grid, kWarps * 32, kBytes, stream>>>(p);
  return launched("attention");
}

template <int kWidth>
Status run(const PagedAttentionArgs& args, const AttentionProblem& p, cudaStream_t stream) {
  return decodes(args) ? decode<kWidth>(p, args.kv, stream) : prefill<kWidth>(p, args.kv, stream);
}

}  // namespace

bool attention_supported(const KvShape& shape) {
  const int64_t width = shape.key_width;
  return shape.dtype == DType::bf16 && shape.value_width == width &&
         (width == 64 || width == 128 || width == 256);
}

Status store_kv(const Stream& stream, const StorePagedArgs& args) {
  const KvShape& shape = args.kv.shape;
  HEDDLE_CHECK(attention_supported(shape), "keys of {}, values of {}", shape.key_width,
               shape.value_width);
  if (args.kv.longest == 0 || args.kv.segment_count == 0) return {};
  const dim3 grid(static_cast<unsigned>((args.kv.longest + kPage - 1) / kPage + 1),
                  static_cast<unsigned>(shape.kv_heads),
                  static_cast<unsigned>(args.kv.segment_count));
  store_kernel<<<grid, 256, 0, static_cast<cudaStream_t>(stream.handle())>>>(
      args, static_cast<int>(shape.key_width), static_cast<int>(shape.value_width));
  return launched("store_kv");
}

int64_t attention_workspace_bytes(const PagedAttentionArgs& args) {
  if (!decodes(args)) return 0;
  return args.kv.segment_count * args.kv.longest * args.heads * splits_of(args.kv) *
         (args.kv.shape.value_width + 2) * 4;
}

Status attention(const Stream& stream, const PagedAttentionArgs& args) {
  const PagedKv& kv = args.kv;
  HEDDLE_CHECK(attention_supported(kv.shape) && args.heads % kv.shape.kv_heads == 0,
               "{} heads, {} of keys of {}, values of {}", args.heads, kv.shape.kv_heads,
               kv.shape.key_width, kv.shape.value_width);
  if (kv.longest == 0 || kv.segment_count == 0) return {};
  const AttentionProblem p = {kv.pages,
                              kv.key_at,
                              kv.value_at,
                              kv.segments,
                              static_cast<int>(args.heads),
                              static_cast<int>(kv.shape.kv_heads),
                              static_cast<int>(args.heads / kv.shape.kv_heads),
                              args.scale,
                              args.soft_cap,
                              args.soft_cap > 0 ? kLog2e : args.scale * kLog2e,
                              static_cast<int>(args.window),
                              args.sinks,
                              args.q,
                              args.q_stride,
                              args.out,
                              args.out_stride,
                              reinterpret_cast<float*>(args.workspace),
                              static_cast<int>(kv.longest),
                              static_cast<int>(splits_of(kv))};
  const auto raw = static_cast<cudaStream_t>(stream.handle());
  if (kv.shape.key_width == 64) return run<64>(args, p, raw);
  if (kv.shape.key_width == 128) return run<128>(args, p, raw);
  return run<256>(args, p, raw);
}

}  // namespace heddle::ops::cuda
