// Block formats to floats and back. Source of the layouts: the GGUF specification and the
// dequantisers of the `gguf` Python package, whose outputs test data pins (quant_test.cpp).
#include "ops/matmul/quant.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "ops/matmul/matmul.h"

namespace heddle::ops {
namespace {

uint16_t load_u16(const std::byte* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}
uint32_t load_u32(const std::byte* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

// Blocks of 32: 16 bytes of nibbles, low nibbles first half. `high`: the fifth bits, or 0.
void unpack_nibbles(const uint8_t* qs, uint32_t high, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<uint8_t>((qs[i] & 15) | (((high >> i) & 1) << 4));
    codes[i + 16] = static_cast<uint8_t>((qs[i] >> 4) | (((high >> (i + 16)) & 1) << 4));
  }
}

// 6-bit scales and minima of the eight blocks of a q4_k/q5_k super-block, 12 bytes.
void unpack_k_scales(const uint8_t* packed, uint8_t* scales, uint8_t* minima) {
  for (int i = 0; i < 4; ++i) {
    scales[i] = packed[i] & 63;
    minima[i] = packed[i + 4] & 63;
    scales[i + 4] = static_cast<uint8_t>((packed[i + 8] & 15) | ((packed[i] >> 6) << 4));
    minima[i + 4] = static_cast<uint8_t>((packed[i + 8] >> 4) | ((packed[i + 4] >> 6) << 4));
  }
}

// Nibbles of 32-blocks 2 p and 2 p + 1 share bytes; bit b of high[i] belongs to block b.
void unpack_k_codes(const uint8_t* low, const uint8_t* high, uint8_t* codes) {
  for (int pair = 0; pair < 4; ++pair, low += 32, codes += 64) {
    for (int i = 0; i < 32; ++i) {
      codes[i] = low[i] & 15;
      codes[i + 32] = low[i] >> 4;
    }
    if (!high) continue;
    for (int i = 0; i < 32; ++i) {
      codes[i] |= static_cast<uint8_t>(((high[i] >> (2 * pair)) & 1) << 4);
      codes[i + 32] |= static_cast<uint8_t>(((high[i] >> (2 * pair + 1)) & 1) << 4);
    }
  }
}

void unpack_q6_codes(const uint8_t* low, const uint8_t* high, uint8_t* codes) {
  for (int half = 0; half < 2; ++half, low += 64, high += 32, codes += 128) {
    for (int i = 0; i < 32; ++i) {
      codes[i] = static_cast<uint8_t>((low[i] & 15) | ((high[i] & 3) << 4));
      codes[i + 32] = static_cast<uint8_t>((low[i + 32] & 15) | (((high[i] >> 2) & 3) << 4));
      codes[i + 64] = static_cast<uint8_t>((low[i] >> 4) | (((high[i] >> 4) & 3) << 4));
      codes[i + 96] = static_cast<uint8_t>((low[i + 32] >> 4) | (((high[i] >> 6) & 3) << 4));
    }
  }
}

}  // namespace

void block_scales(DType dtype, const std::byte* data, BlockScales& scales) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  scales.scale = load_u16(dtype == DType::q6_k ? data + 208 : data);
  switch (dtype) {
    case DType::q4_k:
    case DType::q5_k:
      unpack_k_scales(bytes + 4, scales.sub_scales, scales.sub_minima);
      [[fallthrough]];
    case DType::q4_1:
    case DType::q5_1:
      scales.minimum = load_u16(data + 2);
      return;
    case DType::q6_k:
      std::memcpy(scales.sub_scales, bytes + 192, 16);
      return;
    default:
      return;
  }
}

void unpack_block(DType dtype, const std::byte* data, BlockParts& parts) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  block_scales(dtype, data, parts);
  switch (dtype) {
    case DType::q4_0:
      return unpack_nibbles(bytes + 2, 0, parts.codes);
    case DType::q4_1:
      return unpack_nibbles(bytes + 4, 0, parts.codes);
    case DType::q5_0:
      return unpack_nibbles(bytes + 6, load_u32(data + 2), parts.codes);
    case DType::q5_1:
      return unpack_nibbles(bytes + 8, load_u32(data + 4), parts.codes);
    case DType::q8_0:
      std::memcpy(parts.codes, bytes + 2, 32);
      return;
    case DType::q4_k:
      return unpack_k_codes(bytes + 16, nullptr, parts.codes);
    case DType::q5_k:
      return unpack_k_codes(bytes + 48, bytes + 16, parts.codes);
    case DType::q6_k:
      return unpack_q6_codes(bytes, bytes + 128, parts.codes);
    default:
      HEDDLE_CHECK(false, "{} is not a block format", dtype_info(dtype).name);
  }
}

void block_values(DType dtype, const BlockParts& parts, float* out) {
  const float scale = f16_to_f32(parts.scale);
  const float minimum = f16_to_f32(parts.minimum);
  switch (dtype) {
    case DType::q4_0:
    case DType::q5_0: {
      const int zero = dtype == DType::q4_0 ? 8 : 16;
      for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(parts.codes[i] - zero);
      return;
    }
    case DType::q4_1:
    case DType::q5_1:
      for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(parts.codes[i]) + minimum;
      return;
    case DType::q8_0:
      for (int i = 0; i < 32; ++i)
        out[i] = scale * static_cast<float>(static_cast<int8_t>(parts.codes[i]));
      return;
    case DType::q4_k:
    case DType::q5_k:
      for (int b = 0; b < 8; ++b) {
        const float s = scale * static_cast<float>(parts.sub_scales[b]);
        const float m = minimum * static_cast<float>(parts.sub_minima[b]);
        for (int i = 32 * b; i < 32 * b + 32; ++i)
          out[i] = s * static_cast<float>(parts.codes[i]) - m;
      }
      return;
    case DType::q6_k:
      for (int b = 0; b < 16; ++b) {
        const float s = scale * static_cast<float>(static_cast<int8_t>(parts.sub_scales[b]));
        for (int i = 16 * b; i < 16 * b + 16; ++i)
          out[i] = s * static_cast<float>(parts.codes[i] - 32);
      }
      return;
    default:
      HEDDLE_CHECK(false, "{} is not a block format", dtype_info(dtype).name);
  }
}

void dequantize(DType dtype, const std::byte* data, int64_t elements, float* out) {
  const DTypeInfo& info = dtype_info(dtype);
  switch (dtype) {
    case DType::f32:
      std::memcpy(out, data, static_cast<size_t>(elements) * sizeof(float));
      return;
    case DType::f16:
      for (int64_t i = 0; i < elements; ++i) out[i] = f16_to_f32(load_u16(data + 2 * i));
      return;
    case DType::bf16:
      for (int64_t i = 0; i < elements; ++i) out[i] = bf16_to_f32(load_u16(data + 2 * i));
      return;
    default:
      break;
  }
  HEDDLE_CHECK(info.quantized, "dequantize of {}", info.name);
  HEDDLE_CHECK(elements % info.block_elements == 0, "{} elements of {}", elements, info.name);
  BlockParts parts;
  for (int64_t i = 0; i < elements; i += info.block_elements, data += info.block_bytes) {
    unpack_block(dtype, data, parts);
    block_values(dtype, parts, out + i);
  }
}

namespace {

void store_u16(std::byte* p, uint16_t value) { std::memcpy(p, &value, 2); }

// Both write the bytes that llama.cpp's quantizer writes, ties included, so that a checkpoint
// quantised on load equals its GGUF file.
// Scale = (value of largest magnitude) / -8, so that this value is met exactly by code 0.
void quantize_q4_0(const float* x, std::byte* out) {
  float extreme = 0;
  for (int i = 0; i < 32; ++i)
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  const float scale = extreme / -8.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  store_u16(out, f32_to_f16(scale));
  const auto code = [&](float v) {
    const float q = std::floor(v * inverse + 8.5f);
    return static_cast<uint8_t>(q < 0 ? 0 : q > 15 ? 15 : q);
  };
  for (int i = 0; i < 16; ++i)
    out[2 + i] = static_cast<std::byte>(code(x[i]) | (code(x[i + 16]) << 4));
}

void quantize_q8_0(const float* x, std::byte* out) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
  const float scale = largest / 127.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  store_u16(out, f32_to_f16(scale));
  for (int i = 0; i < 32; ++i) {
    const float q = std::round(x[i] * inverse);
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(q < -127 ? -127 : q > 127 ? 127 : q));
  }
}

}  // namespace

void quantize(DType dtype, const float* values, int64_t elements, std::byte* out) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(out, values, static_cast<size_t>(elements) * sizeof(float));
      return;
    case DType::f16:
      for (int64_t i = 0; i < elements; ++i) store_u16(out + 2 * i, f32_to_f16(values[i]));
      return;
    case DType::bf16:
      for (int64_t i = 0; i < elements; ++i) store_u16(out + 2 * i, f32_to_bf16(values[i]));
      return;
    case DType::q4_0:
    case DType::q8_0:
      break;
    default:
      HEDDLE_CHECK(false, "quantize to {}", dtype_info(dtype).name);
  }
  HEDDLE_CHECK(elements % 32 == 0, "{} elements", elements);
  const int64_t bytes = dtype_info(dtype).block_bytes;
  for (int64_t i = 0; i < elements; i += 32, out += bytes)
    dtype == DType::q4_0 ? quantize_q4_0(values + i, out) : quantize_q8_0(values + i, out);
}

}  // namespace heddle::ops
