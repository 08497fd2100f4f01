#pragma once
// How PackedMatrix keeps weights: a lane of a vector is an output row, so every output is one
// sequential chain over k whatever the tile shape, and decode and prefill give equal bits.
//
// A source becomes a section of tiles of 16 rows (the last one padded with zeros). A tile is
//
//   float formats   [K][16] values as stored
//   block formats   pairs of 32-blocks: codes [2][code_bytes], scales [2][scale_bytes]
//   K-quants        super-blocks of 256: supers [super_bytes], then four pairs
//
// in the order in which a kernel needs them: decode reads a matrix as one stream per thread, which
// the hardware's prefetching follows (with the scales apart it lost half of the bandwidth of one
// core). A pair is a whole number of 64-byte lines; an odd last block leaves half of one empty.
//
// Codes of one 32-block of 16 rows, in groups of 4 consecutive k: group g (0..7) is 64 bytes,
// byte 4 r + i = code of row r at k = 4 g + i. So one 32-bit lane of a dot-product instruction
// holds 4 consecutive k of one row.
//   8 bits: 8 x 64 bytes                                                    (q8_0: 512)
//   4 bits: 4 x 64 bytes; low nibble = group j, high nibble = group j + 4    (q4_*: 256)
//   5 bits: the nibbles, then 64 bytes whose bit g is bit 4 of group g       (q5_*: 320)
//   6 bits: the nibbles, then 2 x 64 bytes: bits 2f, 2f+1 of byte vector h
//           are bits 4, 5 of group 4 h + f                                   (q6_k: 384)
// Scales of one 32-block:
//   q4_0 q5_0 q8_0   f16 scale [16]
//   q4_1 q5_1        f16 scale [16], f16 minimum [16]
//   q4_k q5_k        u8 scale [16], u8 minimum [16]; supers: f16 scale [16], f16 minimum [16]
//   q6_k             i8 scale [16][2] (the two 16-blocks); supers: f16 scale [16]
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/dtype.h"
#include "ops/matmul/matmul.h"

namespace heddle::ops {

constexpr int64_t kTileRows = 16;

// Of a 32-block (supers: of eight) of 16 rows.
constexpr int64_t code_bytes(DType dtype) {
  switch (dtype) {
    case DType::q8_0:
      return 512;
    case DType::q5_0:
    case DType::q5_1:
    case DType::q5_k:
      return 320;
    case DType::q6_k:
      return 384;
    default:
      return 256;
  }
}
constexpr int64_t scale_bytes(DType dtype) {
  return dtype == DType::q4_1 || dtype == DType::q5_1 ? 64 : 32;
}
constexpr int64_t super_bytes(DType dtype) {
  if (dtype == DType::q6_k) return 32;
  return dtype == DType::q4_k || dtype == DType::q5_k ? 64 : 0;
}
// Two blocks, without supers.
constexpr int64_t pair_bytes(DType dtype) { return 2 * (code_bytes(dtype) + scale_bytes(dtype)); }

struct Section {
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t first_row = 0;  // row of the matrix
  int64_t tiles = 0;
  int64_t first_tile = 0;
  int64_t tile_bytes = 0;
  int64_t offset = 0;  // of the first tile in the data
  // Block formats only.
  int64_t blocks = 0;  // K / 32
  int64_t code_bytes = 0;
  int64_t scale_bytes = 0;
  int64_t super_bytes = 0;
  int64_t pair_bytes = 0;

  // Within a tile.
  int64_t pair_at(int64_t block) const {
    return block / 2 * pair_bytes + (block / 8 + 1) * super_bytes;
  }
  int64_t codes_at(int64_t block) const { return pair_at(block) + block % 2 * code_bytes; }
  int64_t scales_at(int64_t block) const {
    return pair_at(block) + 2 * code_bytes + block % 2 * scale_bytes;
  }
  int64_t supers_at(int64_t block) const { return block / 8 * (4 * pair_bytes + super_bytes); }
};

struct PackedMatrix::Impl {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tiles = 0;
  int64_t bytes = 0;
  bool any_blocks = false;  // some section multiplies in int8
  std::vector<Section> sections;
  std::byte* data = nullptr;  // 64-byte aligned, in a WeightMemory

  const std::byte* tile(const Section& section, int64_t index) const {
    return data + section.offset + index * section.tile_bytes;
  }
};

// A value that stands out of its block of 32: with it the scale would leave the others a few
// levels only. It is taken out of the block and multiplied with its weights in float32, after the
// blocks of its stretch (see Activations).
struct Outlier {
  int32_t k;  // from the beginning of the stretch
  float value;
};
constexpr int kBlockOutliers = 2;  // of one block, at most
// Against the root mean square of the block's others, which keep 127 / 8 levels of it at least: an
// error of 2% of them, a quarter of that of 4-bit weights.
constexpr float kOutlierDeviations = 8.0f;

// Activations in int8, x = scale code with code in [-127, 127], one scale for 32 values. Tokens
// stand in groups of `width`, padded with zeros, so that a kernel finds the 4 bytes of its tokens
// side by side. Columns are cut into stretches of kStretch blocks, so that groups that pass one
// after the other through a stretch are neighbours in memory:
//   codes  [stretches][groups][blocks of the stretch][8][width][4]
//   planes [plane][stretches][groups][blocks of the stretch][width] of 32-bit numbers, precomputed
//          in the form in which some kernel broadcasts them
struct Activations {
  static constexpr int64_t kStretch = 16;
  static constexpr int64_t kStretchOutliers = kStretch * kBlockOutliers;
  enum Plane {
    kScale,        // float
    kScaledSum,    // float: scale * sum of the codes
    kMinus8,       // int32: -8 * sum
    kMinus16,      // int32: -16 * sum
    kMinus128,     // int32: -128 * sum
    kMinus32Half,  // int32: -32 * sum of the first 16 codes
    kMinus32Rest,  // int32: -32 * sum of the second 16 codes
    // AVX2, in place of the five before: int16 [2], of the codes k with k % 4 < 2 and of the
    // others.
    kMinus8Pairs,   // -8 * sum
    kMinus16Pairs,  // -16 * sum
    kMinus32HalfPairs,
    kMinus32RestPairs,
    kPlanes
  };
  // Planes that a kernel of the format reads, as bits.
  static constexpr uint32_t planes_of(DType dtype) {
    const auto bits = [](auto... planes) { return (0u | ... | (1u << planes)); };
    switch (dtype) {
      case DType::q4_0:
        return bits(kScale, kMinus8, kMinus8Pairs);
      case DType::q5_0:
        return bits(kScale, kMinus16, kMinus16Pairs);
      case DType::q8_0:
        return bits(kScale, kMinus128);
      case DType::q6_k:
        return bits(kScale, kMinus32Half, kMinus32Rest, kMinus32HalfPairs, kMinus32RestPairs);
      default:
        return bits(kScale, kScaledSum);
    }
  }
  int8_t* codes = nullptr;
  int32_t* planes = nullptr;
  Outlier* outliers = nullptr;        // [stretches][groups width][kStretchOutliers], by k
  int32_t* outlier_counts = nullptr;  // [stretches][groups width]
  uint32_t used = 0;                  // planes that are filled, as bits
  int64_t width = 1;                  // 1, 2 or 4
  int64_t groups = 0;                 // ceil(T / width)
  int64_t blocks = 0;                 // K / 32

  int64_t plane_size() const { return groups * blocks * width; }
  int64_t stretches() const { return (blocks + kStretch - 1) / kStretch; }
  // Index of the counts of a token's stretch.
  int64_t outliers_at(int64_t stretch, int64_t token) const {
    return stretch * groups * width + token;
  }
  int64_t stretch_blocks(int64_t block) const {
    return std::min(kStretch, blocks - block / kStretch * kStretch);
  }
  // Index of a block of a group: its codes are at 32 width times that, its numbers at width times.
  int64_t index(int64_t group, int64_t block) const {
    const int64_t within = block % kStretch;
    return (block - within) * groups + group * stretch_blocks(block) + within;
  }
};

}  // namespace heddle::ops
