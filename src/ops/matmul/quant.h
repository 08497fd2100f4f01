#pragma once
// One block of a quantised format, taken apart: what repacking and dequantising share.
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace heddle::ops {

// Fields beyond those a format has are left alone. `scale` and `minimum` are f16 bits.
//   q4_0, q5_0   value = scale (code - 8 or 16)
//   q4_1, q5_1   value = scale code + minimum
//   q8_0         value = scale (int8) code
//   q4_k, q5_k   value = scale sub_scales[i/32] code - minimum sub_minima[i/32]
//   q6_k         value = scale (int8) sub_scales[i/16] (code - 32)
struct BlockScales {
  uint16_t scale = 0;
  uint16_t minimum = 0;
  uint8_t sub_scales[16] = {};
  uint8_t sub_minima[8] = {};
};
struct BlockParts : BlockScales {
  uint8_t codes[256] = {};
};

void block_scales(DType dtype, const std::byte* data, BlockScales& scales);
void unpack_block(DType dtype, const std::byte* data, BlockParts& parts);
// The values of the block, block_elements of them.
void block_values(DType dtype, const BlockParts& parts, float* out);

}  // namespace heddle::ops
