// Strips of packed pages (packed_page.h) in registers of 64 bytes, for targets that have them.
// Compiled once per target.
#include <cstdint>

#include "backend/simd/math-inl.h"
#include "backend/simd/simd.h"
#include "ops/attention/packed_page.h"

#if defined(HEDDLE_OPS_PACKED_PAGE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_OPS_PACKED_PAGE_INL_H
#undef HEDDLE_OPS_PACKED_PAGE_INL_H
#else
#define HEDDLE_OPS_PACKED_PAGE_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

// Whether products read packed pages as they are.
constexpr bool kReadsPacked = HWY_TARGET == HWY_AVX3_DL;

#if HWY_TARGET == HWY_AVX3_DL

using DU8 = hn::ScalableTag<uint8_t>;
using DU16 = hn::ScalableTag<uint16_t>;
using DU32 = hn::ScalableTag<uint32_t>;
using DU64 = hn::ScalableTag<uint64_t>;
using VU8 = hn::Vec<DU8>;
using VU32 = hn::Vec<DU32>;

// What a code adds to `base`, or to `other` where it stands for that; by code.
HWY_ALIGN constexpr uint8_t kCodeSteps[16] = {0,    0,    1,    2,    3,    4,    5,    6,
                                              0x80, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86};
HWY_ALIGN constexpr uint8_t kCodeIsOther[16] = {0xff, 0, 0, 0, 0, 0, 0, 0,
                                                0xff, 0, 0, 0, 0, 0, 0, 0};

// Reads the strips of a unit, pair after pair.
class PackedStrips {
 public:
  HWY_INLINE PackedStrips()
      : steps_(hn::LoadDup128(DU8(), kCodeSteps)),
        is_other_(hn::MaskFromVec(hn::LoadDup128(DU8(), kCodeIsOther))) {}

  // Strip 2i + `odd` of the unit, whose pair i stands at `pair`: bf16 bits of elements 0 .. 15 and
  // 32 .. 47 in the low halves of (a, b), those of 16 .. 31 and 48 .. 63 in the high ones.
  HWY_INLINE void read(const uint8_t* unit, const uint8_t* pair, int64_t i, int odd, VU32& a,
                       VU32& b) const {
    const DU8 d8;
    const VU8 both = hn::LoadU(d8, pair + 128);
    const VU8 shifted =
        odd != 0 ? hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(DU16(), both))) : both;
    const VU8 codes = hn::And(shifted, hn::Set(d8, 0x0f));
    const uint8_t* const header = unit + 2 * i + odd;
    const VU8 least =
        hn::IfThenElse(is_other_, hn::Set(d8, header[kUnitStrips]), hn::Set(d8, header[0]));
    const VU8 high = hn::TableLookupBytes(hn::Add(least, steps_), codes);
    const VU8 low = hn::LoadU(d8, pair + 64 * odd);
    a = hn::BitCast(DU32(), hn::InterleaveLower(d8, low, high));
    b = hn::BitCast(DU32(), hn::InterleaveUpper(d8, low, high));
  }

  // The same as 64 floats in order.
  HWY_INLINE void widen(const uint8_t* unit, const uint8_t* pair, int64_t i, int odd,
                        VF out[4]) const {
    VU32 a, b;
    read(unit, pair, i, odd, a, b);
    const VU32 upper = hn::Set(DU32(), 0xffff0000u);
    out[0] = hn::BitCast(DF(), hn::ShiftLeft<16>(a));
    out[1] = hn::BitCast(DF(), hn::And(a, upper));
    out[2] = hn::BitCast(DF(), hn::ShiftLeft<16>(b));
    out[3] = hn::BitCast(DF(), hn::And(b, upper));
  }

 private:
  VU8 steps_;
  hn::Mask<DU8> is_other_;
};

// 64 strips to floats, [64][64].
static HWY_INLINE void widen_packed_unit(const uint8_t* unit, float* out) {
  const PackedStrips strips;
  const uint8_t* pair = unit + 2 * kUnitStrips;
  for (int64_t i = 0; i < kUnitStrips / 2; ++i, pair += kPackedPairBytes) {
    for (int odd = 0; odd < 2; ++odd, out += 64) {
      VF x[4];
      strips.widen(unit, pair, i, odd, x);
      for (int64_t n = 0; n < 4; ++n) hn::StoreU(x[n], DF(), out + n * 16);
    }
  }
}

static HWY_INLINE void unpack_unit_fast(const uint8_t* unit, uint16_t* out) {
  const PackedStrips strips;
  const hn::Rebind<uint16_t, DU32> d16;
  const uint8_t* pair = unit + 2 * kUnitStrips;
  for (int64_t i = 0; i < kUnitStrips / 2; ++i, pair += kPackedPairBytes) {
    for (int odd = 0; odd < 2; ++odd, out += 64) {
      VU32 a, b;
      strips.read(unit, pair, i, odd, a, b);
      hn::StoreU(hn::TruncateTo(d16, a), d16, out);
      hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(a)), d16, out + 16);
      hn::StoreU(hn::TruncateTo(d16, b), d16, out + 32);
      hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(b)), d16, out + 48);
    }
  }
}

// Bytes of even index of every 16-byte lane, then those of odd index.
HWY_ALIGN constexpr uint8_t kEvenThenOdd[16] = {0, 2, 4, 6, 8, 10, 12, 14,
                                                1, 3, 5, 7, 9, 11, 13, 15};

static HWY_INLINE int greatest(VU8 x) {
  const DU16 d16;
  const auto pairs = hn::BitCast(d16, x);
  const auto top = hn::Max(hn::And(pairs, hn::Set(d16, 0xff)), hn::ShiftRight<8>(pairs));
  return hn::GetLane(hn::MaxOfLanes(d16, top));
}

// One strip: its low bytes to `low`, its codes to `codes`. False if it doesn't fit.
static HWY_INLINE bool pack_strip(const uint16_t* strip, uint8_t* header, uint8_t* low,
                                  VU8& codes) {
  const DU8 d8;
  const hn::Rebind<uint16_t, DU32> d16;
  const auto load = [&](int64_t n)
                        HWY_ATTR { return hn::PromoteTo(DU32(), hn::LoadU(d16, strip + n)); };
  const VU8 order = hn::LoadDup128(d8, kEvenThenOdd);
  const auto a = hn::Or(load(0), hn::ShiftLeft<16>(load(16)));
  const auto b = hn::Or(load(32), hn::ShiftLeft<16>(load(48)));
  const auto a2 = hn::BitCast(DU64(), hn::TableLookupBytes(hn::BitCast(d8, a), order));
  const auto b2 = hn::BitCast(DU64(), hn::TableLookupBytes(hn::BitCast(d8, b), order));
  hn::StoreU(hn::BitCast(d8, hn::InterleaveLower(a2, b2)), d8, low);
  const VU8 high = hn::BitCast(d8, hn::InterleaveUpper(DU64(), a2, b2));
  const VU8 exponent = hn::And(high, hn::Set(d8, 0x7f));
  const int top = greatest(exponent);
  const int base = top > kExponentCodes - 1 ? top - (kExponentCodes - 1) : 0;
  const VU8 bases = hn::Set(d8, static_cast<uint8_t>(base));
  const auto outside = hn::Lt(exponent, bases);
  int other = 0;
  if (!hn::AllFalse(d8, outside)) {
    // All of them must be alike.
    other = greatest(hn::IfThenElseZero(outside, exponent));
    if (!hn::AllFalse(d8, hn::Lt(exponent, hn::Set(d8, static_cast<uint8_t>(other))))) return false;
  }
  header[0] = static_cast<uint8_t>(base);
  header[kUnitStrips] = static_cast<uint8_t>(other);
  const VU8 inside = hn::Add(hn::Sub(exponent, bases), hn::Set(d8, 1));
  const VU8 sign = hn::IfThenElseZero(hn::Ne(high, exponent), hn::Set(d8, 8));
  codes = hn::Or(hn::IfThenZeroElse(outside, inside), sign);
  return true;
}

static HWY_INLINE bool pack_unit_fast(const uint16_t* strips, uint8_t* unit) {
  const DU8 d8;
  uint8_t* pair = unit + 2 * kUnitStrips;
  for (int64_t i = 0; i < kUnitStrips / 2; ++i, pair += kPackedPairBytes, strips += 128) {
    VU8 even, odd;
    if (!pack_strip(strips, unit + 2 * i, pair, even)) return false;
    if (!pack_strip(strips + 64, unit + 2 * i + 1, pair + 64, odd)) return false;
    // Codes are below 16: nothing crosses into the neighbouring byte.
    const auto high = hn::ShiftLeft<4>(hn::BitCast(DU16(), odd));
    hn::StoreU(hn::Or(even, hn::BitCast(d8, high)), d8, pair + 128);
  }
  return true;
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
