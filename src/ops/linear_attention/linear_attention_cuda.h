#pragma once
// Linear attention on an NVIDIA GPU of compute capability 9.0: the walk over prompts, the decode
// step and the fold, for every rule that is a gate (one per head, or one per key channel) and a way
// to write (delta rule or plain addition):
//   S <- e^g S;  u = beta (v - S^T k)  or  u = beta v;  S <- S + k u^T;  o = S^T q
// Gated DeltaNet: gate per head, delta. Kimi Delta Attention: gate per channel, delta. Lightning,
// Mamba-2 (k = B, q = C, v = x, beta = dt, g = dt A): gate per head, plain.
// A row has the same bits whether a prompt brought it, whole or in pieces, or a decode step: all
// three do the same operations on the same operands in the same order (docs/decisions says how).
//
// All pointers are device memory. The layout of summaries and records is below.
#include <cstddef>
#include <cstdint>

#include "backend/cuda/stream.h"

namespace heddle::ops::cuda {

// Tokens between two summaries, and of a chunk: chunks stand at multiples of it.
constexpr int64_t kLinearFold = 64;
// Rows that the triangular system is solved for at once.
constexpr int64_t kLinearBlock = 16;

enum class LinearGate { kHead, kChannel };
enum class LinearWrite { kDelta, kPlain };

struct LinearShape {
  LinearGate gate = LinearGate::kHead;
  LinearWrite write = LinearWrite::kDelta;
  int64_t key_heads = 0;    // HK; with a gate per channel HK = HV
  int64_t value_heads = 0;  // HV, a multiple of HK; value head h reads key head h / (HV / HK)
  int64_t key_width = 0;    // K: 128
  int64_t value_width = 0;  // V: 64 or 128

  int64_t gates() const { return gate == LinearGate::kChannel ? key_width : 1; }
  // A summary, float: [HV][V / 16][K / 8][lane 32][4], where lane l of a tile of 16 values and 8
  // channels holds (v, k) = (l / 4, 2 (l % 4)), then k + 1, then v + 8 of both.
  int64_t summary_floats() const { return value_heads * key_width * value_width; }
  int64_t summary_index(int64_t head, int64_t k, int64_t v) const {
    const int64_t tile = (head * (value_width / 16) + v / 16) * (key_width / 8) + k / 8;
    const int64_t lane = v % 8 * 4 + k % 8 / 2;
    return (tile * 32 + lane) * 4 + v % 16 / 8 * 2 + k % 2;
  }
  // The records since the boundary, bytes from the start of the open page:
  //   k bf16 [HK][64][K]; u bf16 [HV][V / 16][4][lane 32][8] (A fragments of u^T);
  //   G float [HV][64][gates()]: base 2 logarithm of the decay since the boundary;
  // and of the delta rule, for the rows of the open block of 16 alone:
  //   the right hand sides bf16 [HV][V / 16][high, low][lane 32][8], and the rows of the inverse
  //   float [HV][16][16].
  int64_t values_at() const { return key_heads * kLinearFold * key_width * 2; }
  int64_t decays_at() const { return values_at() + value_heads * kLinearFold * value_width * 2; }
  int64_t sides_at() const { return decays_at() + value_heads * kLinearFold * gates() * 4; }
  int64_t inverse_at() const { return sides_at() + value_heads * kLinearBlock * value_width * 4; }
  int64_t open_bytes() const {
    return write == LinearWrite::kDelta
               ? inverse_at() + value_heads * kLinearBlock * kLinearBlock * 4
               : sides_at();
  }
};

// Rows [row, row + length) of the inputs are positions [start, start + length) of a sequence.
struct LinearSegment {
  int64_t row = 0;
  int64_t start = 0;
  int32_t length = 0;
  int32_t first_chunk = 0;         // prefill: of the step's chunks, where this segment's begin
  const float* summary = nullptr;  // at the fold boundary at or before start; null at 0
  float* next_summary = nullptr;   // takes that of the last boundary reached, if one is
  std::byte* open = nullptr;       // records from the boundary to start; decode appends to it
  std::byte* next_open = nullptr;  // prefill: takes the records from the last boundary on. May be
                                   // `open` where no boundary is reached
};

// A piece of 64 positions of a segment.
struct LinearChunk {
  int32_t segment = 0;
  int32_t index = 0;  // the segment's chunks, from 0
};

struct LinearArgs {
  LinearShape shape;
  const void* q = nullptr;      // bf16 [T, HK, K], normalised and scaled
  const void* k = nullptr;      // bf16 [T, HK, K]
  const void* v = nullptr;      // bf16 [T, HV, V]
  const float* g = nullptr;     // [T, HV, gates()], natural logarithm, <= 0
  int64_t g_stride = 0;         // floats from row to row; 0: the same gates for all rows
  const float* beta = nullptr;  // [T, HV]; null: 1
  void* o = nullptr;            // bf16 [T, HV, V]
  const LinearSegment* segments = nullptr;
  int64_t segment_count = 0;
  const LinearChunk* chunks = nullptr;  // prefill alone
  int64_t chunk_count = 0;
  std::byte* workspace = nullptr;  // prefill alone: linear_workspace_bytes
};

// How many chunks positions [start, start + length) touch.
constexpr int64_t linear_chunks(int64_t start, int64_t length) {
  return length == 0 ? 0 : (start + length + kLinearFold - 1) / kLinearFold - start / kLinearFold;
}
int64_t linear_workspace_bytes(const LinearShape& shape, int64_t chunk_count);

// Whether there are kernels for a shape.
bool linear_supported(const LinearShape& shape);

using backend::cuda::Stream;

Status linear_prefill(const Stream& stream, const LinearArgs& args);
// One row of every segment; writes its record. The summaries are not written.
Status linear_decode(const Stream& stream, const LinearArgs& args);
// Folds `open`, which is full, on `summary` into `next_summary`, for every segment.
Status linear_fold(const Stream& stream, const LinearArgs& args);

}  // namespace heddle::ops::cuda
