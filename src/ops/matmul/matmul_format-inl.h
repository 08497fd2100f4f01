// What the tiles of each block format hold, compiled once per target: sizes, scales, single
// columns.
#include <cstddef>
#include <cstdint>

#include "backend/simd/simd.h"
#include "ops/matmul/matmul_layout.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"

#if defined(HEDDLE_OPS_MATMUL_FORMAT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_MATMUL_FORMAT_INL_H
#undef HEDDLE_OPS_MATMUL_FORMAT_INL_H
#else
#define HEDDLE_OPS_MATMUL_FORMAT_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

// 16 bytes as floats.
HWY_INLINE F32x16 load_u8(const std::byte* p) {
  return F32x16::build([&](int i) HWY_ATTR {
    const hn::Rebind<uint8_t, DI> d8;
    return hn::ConvertTo(
        DF(), hn::PromoteTo(DI(), hn::LoadU(d8, reinterpret_cast<const uint8_t*>(p) + i * kLanes)));
  });
}
HWY_INLINE F32x16 load_half(const std::byte* p) {
  return load16_f16(reinterpret_cast<const uint16_t*>(p));
}

template <DType kType>
struct Format;
#define HEDDLE_FORMAT(type, bits, zero_code, has_minimum, k_quant)   \
  template <>                                                        \
  struct Format<DType::type> {                                       \
    static constexpr int kBits = bits, kZero = zero_code;            \
    static constexpr bool kMinimum = has_minimum, kSuper = k_quant;  \
    static constexpr int64_t kCodeBytes = code_bytes(DType::type);   \
    static constexpr int64_t kScaleBytes = scale_bytes(DType::type); \
    static constexpr int64_t kSuperBytes = super_bytes(DType::type); \
    static constexpr int64_t kPairBytes = pair_bytes(DType::type);   \
  };
HEDDLE_FORMAT(q4_0, 4, 8, false, false)
HEDDLE_FORMAT(q4_1, 4, 0, true, false)
HEDDLE_FORMAT(q5_0, 5, 16, false, false)
HEDDLE_FORMAT(q5_1, 5, 0, true, false)
HEDDLE_FORMAT(q8_0, 8, 0, false, false)
HEDDLE_FORMAT(q4_k, 4, 0, true, true)
HEDDLE_FORMAT(q5_k, 5, 0, true, true)
HEDDLE_FORMAT(q6_k, 6, 32, false, true)
#undef HEDDLE_FORMAT

// Codes of 16 rows at column 4 g + i of a block, less the format's zero.
template <int kBits, int kZero>
HWY_INLINE F32x16 column_codes(const uint8_t* codes, int g, int i) {
  const hn::RebindToUnsigned<DI> du;
  const auto word = [&](int64_t at, int part, int shift) HWY_ATTR {
    const auto* p = reinterpret_cast<const uint32_t*>(codes + at) + part * kLanes;
    return hn::ShiftRightSame(hn::LoadU(du, p), shift);
  };
  return F32x16::build([&](int part) HWY_ATTR {
    if constexpr (kBits == 8) {
      const VI raw = hn::BitCast(DI(), word(64 * g, part, 0));
      return hn::ConvertTo(DF(), hn::ShiftRight<24>(hn::ShiftLeftSame(raw, 24 - 8 * i)));
    } else {
      auto code = hn::And(word(64 * (g & 3), part, 8 * i + (g < 4 ? 0 : 4)), hn::Set(du, 15u));
      if constexpr (kBits == 5)
        code = hn::Or(code, hn::ShiftLeft<4>(hn::And(word(256, part, 8 * i + g), hn::Set(du, 1u))));
      if constexpr (kBits == 6)
        code = hn::Or(code,
                      hn::ShiftLeft<4>(hn::And(word(256 + 64 * (g >> 2), part, 8 * i + 2 * (g & 3)),
                                               hn::Set(du, 3u))));
      return hn::ConvertTo(DF(), hn::Sub(hn::BitCast(DI(), code), hn::Set(DI(), kZero)));
    }
  });
}

// Scale and minimum of the rows of a tile at one block. value = scale code + minimum
struct RowScales {
  F32x16 scale;
  F32x16 minimum;
};
template <DType kType>
HWY_INLINE RowScales row_scales(const std::byte* scales, const std::byte* supers) {
  using F = Format<kType>;
  if constexpr (F::kSuper) {
    const F32x16 super_scale = load_half(supers);
    if constexpr (kType == DType::q6_k) return {super_scale, zero16()};
    return {mul(super_scale, load_u8(scales)),
            mul(load_half(supers + 32), sub(zero16(), load_u8(scales + 16)))};
  } else {
    return {load_half(scales), F::kMinimum ? load_half(scales + 32) : zero16()};
  }
}

// Codes as the weights they stand for. half: q6_k's scales of the codes' 16-block.
template <DType kType>
HWY_INLINE F32x16 weigh(const RowScales& scales, F32x16 half, F32x16 code) {
  using F = Format<kType>;
  if constexpr (kType == DType::q6_k) return mul(mul(scales.scale, half), code);
  if constexpr (F::kSuper) return add(mul(scales.scale, code), scales.minimum);
  if constexpr (F::kMinimum) return fma(scales.scale, code, scales.minimum);
  return mul(scales.scale, code);
}

// Column k of a tile: 16 weights as the floats they stand for.
template <DType kType>
HWY_INLINE F32x16 column(const Section& s, const std::byte* tile, int64_t k) {
  using F = Format<kType>;
  const int64_t b = k / 32;
  const auto within = static_cast<int>(k % 32);
  const F32x16 code = column_codes<F::kBits, F::kZero>(
      reinterpret_cast<const uint8_t*>(tile + s.codes_at(b)), within / 4, within % 4);
  const std::byte* scales = tile + s.scales_at(b);
  F32x16 half = zero16();
  if constexpr (kType == DType::q6_k) {
    HWY_ALIGN float values[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r)
      values[r] = static_cast<float>(static_cast<int8_t>(scales[2 * r + within / 16]));
    half = load16(values);
  }
  return weigh<kType>(row_scales<kType>(scales, tile + s.supers_at(b)), half, code);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
