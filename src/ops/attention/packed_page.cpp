// Packing and unpacking: plain loops, which are the specification, and AVX-512. Each unit is packed
// once, when its page is complete. Floor: 8,192 bytes read and 6,272 written a unit (or the other
// way round), and with AVX-512 some 20 instructions for 64 elements: less than the memory takes.
#include "ops/attention/packed_page.h"

#include <algorithm>
#include <cstring>
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/packed_page.cpp"
#include "backend/simd/simd.h"
#include "ops/attention/packed_page-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3_DL

bool pack_unit(const uint16_t* strips, uint8_t* unit) { return pack_unit_fast(strips, unit); }
void unpack_unit(const uint8_t* unit, uint16_t* strips) { unpack_unit_fast(unit, strips); }

#else

bool pack_unit(const uint16_t* strips, uint8_t* unit) {
  for (int64_t s = 0; s < kUnitStrips; ++s, strips += 64) {
    const auto exponent = [&](int64_t n) { return strips[n] >> 8 & 0x7f; };
    int top = 0;
    for (int64_t n = 0; n < 64; ++n) top = std::max(top, exponent(n));
    const int base = std::max(top - (kExponentCodes - 1), 0);
    int other = -1;
    for (int64_t n = 0; n < 64; ++n) {
      if (exponent(n) >= base) continue;
      if (other >= 0 && exponent(n) != other) return false;
      other = exponent(n);
    }
    unit[s] = static_cast<uint8_t>(base);
    unit[kUnitStrips + s] = static_cast<uint8_t>(std::max(other, 0));
    uint8_t* pair = unit + 2 * kUnitStrips + s / 2 * kPackedPairBytes;
    for (size_t n = 0; n < 64; ++n) {
      const int64_t e = kPackedOrder[n];
      const int code = exponent(e) < base ? 0 : exponent(e) - base + 1;
      const int with_sign = code | (strips[e] >> 15 << 3);
      pair[static_cast<size_t>(s % 2) * 64 + n] = static_cast<uint8_t>(strips[e]);
      pair[128 + n] = static_cast<uint8_t>(s % 2 == 0 ? with_sign : pair[128 + n] | with_sign << 4);
    }
  }
  return true;
}

void unpack_unit(const uint8_t* unit, uint16_t* strips) {
  for (int64_t s = 0; s < kUnitStrips; ++s, strips += 64) {
    const uint8_t* pair = unit + 2 * kUnitStrips + s / 2 * kPackedPairBytes;
    for (size_t n = 0; n < 64; ++n) {
      const int code = pair[128 + n] >> (s % 2 * 4);
      const int exponent = (code & 7) == 0 ? unit[kUnitStrips + s] : unit[s] + (code & 7) - 1;
      const int high = (code & 8) << 4 | exponent;
      strips[kPackedOrder[n]] =
          static_cast<uint16_t>(high << 8 | pair[static_cast<size_t>(s % 2) * 64 + n]);
    }
  }
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "backend/target.h"

namespace heddle::ops {

HWY_EXPORT(pack_unit);
HWY_EXPORT(unpack_unit);

bool pack_page(const std::byte* page, int64_t page_bytes, std::byte* packed) {
  const auto pack = HWY_DYNAMIC_DISPATCH(pack_unit);
  const auto* from = reinterpret_cast<const uint16_t*>(page);
  auto* to = reinterpret_cast<uint8_t*>(packed);
  for (int64_t unit = 0; unit < page_bytes / kUnitBytes; ++unit)
    if (!pack(from + unit * kUnitElements, to + unit * kPackedUnitBytes)) return false;
  return true;
}

void unpack_page(const std::byte* packed, int64_t page_bytes, std::byte* page) {
  const auto unpack = HWY_DYNAMIC_DISPATCH(unpack_unit);
  const auto* from = reinterpret_cast<const uint8_t*>(packed);
  auto* to = reinterpret_cast<uint16_t*>(page);
  for (int64_t unit = 0; unit < page_bytes / kUnitBytes; ++unit)
    unpack(from + unit * kPackedUnitBytes, to + unit * kUnitElements);
}

const std::byte* PlainPages::operator[](int64_t page) {
  if (!view_.is_packed(page)) return view_.page(page);
  std::vector<std::byte>& plain = unpacked_[page];
  if (plain.empty()) {
    plain.resize(static_cast<size_t>(page_bytes_));
    unpack_page(view_.page(page), page_bytes_, plain.data());
  }
  return plain.data();
}

const state::PageCodec* page_codec(int64_t head_strips) {
  static constexpr state::PageCodec kCodec = {
      [](int64_t bytes) { return bytes / kUnitBytes * kPackedUnitBytes; }, pack_page, unpack_page};
  return head_strips % kUnitStrips == 0 && backend::active_target() == "avx512" ? &kCodec : nullptr;
}

}  // namespace heddle::ops
#endif
