#pragma once
// Element types and quantised block formats, as files store them. Block formats: source of the
// layouts is the GGUF specification; a block holds block_elements consecutive values of a row in
// block_bytes bytes.
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace heddle {

enum class DType : uint8_t {
  f32,
  f16,
  bf16,
  i8,
  u8,
  i32,
  i64,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q4_k,
  q5_k,
  q6_k
};

struct DTypeInfo {
  std::string_view name;   // "f32", "q4_0", ...
  int64_t block_elements;  // 1 for plain types
  int64_t block_bytes;
  bool quantized;
};

const DTypeInfo& dtype_info(DType type);
std::optional<DType> dtype_from_name(std::string_view name);

// Bytes of `elements` values (a multiple of block_elements).
inline int64_t dtype_bytes(DType type, int64_t elements) {
  const DTypeInfo& info = dtype_info(type);
  return elements / info.block_elements * info.block_bytes;
}

inline float bf16_to_f32(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Round to nearest even; NaN stays NaN.
inline uint16_t f32_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);  // round to nearest even

}  // namespace heddle
