#pragma once
// bf16 pages in 49/64 of their bytes, without loss. What decode reads at depth is keys and values,
// and of the 16 bits of a bf16 hardly more than 11 carry information: strips of neighbours (one
// element of 64 keys, 64 elements of one value) lie within a few powers of two.
//
// A unit is 64 strips of 64 elements, 8,192 bytes. Packed, 6,272 bytes:
//
//   base  [64]     of each strip: the least of its common exponents
//   other [64]     one more exponent, of elements that lie outside
//   pairs [32][192]: of strips 2i and 2i + 1: low bytes [64], low bytes [64], codes [64]
//
// An element's high byte is its sign and the upper seven bits of its exponent, here "exponent" for
// short: a factor of 4 a step. Its code is sign << 3 | c; c = 0: exponent `other`; c = 1 .. 7:
// base + c - 1. Codes of strip 2i are the low halves of their bytes, those of 2i + 1 the high ones.
// A strip fits if all its exponents but one lie within 7 steps (a factor of 16,384; zeros are such
// a one). A page with a strip that doesn't is not packed: of normal numbers, 1 unit in 130.
//
// Byte n of low bytes or codes belongs to element kPackedOrder[n], such that the instructions that
// interleave bytes within 16-byte lanes leave elements in order: see packed_page-inl.h.
#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "state/batch.h"
#include "state/state_part.h"

namespace heddle::ops {

constexpr int64_t kUnitStrips = 64;
constexpr int64_t kUnitElements = 64 * kUnitStrips;
constexpr int64_t kUnitBytes = 2 * kUnitElements;
constexpr int64_t kPackedPairBytes = 3 * 64;
constexpr int64_t kPackedUnitBytes = 2 * kUnitStrips + kUnitStrips / 2 * kPackedPairBytes;
constexpr int kExponentCodes = 7;  // within the window of a strip

constexpr std::array<uint8_t, 64> kPackedOrder = [] {
  std::array<uint8_t, 64> order{};
  for (uint8_t n = 0; n < 64; ++n) {
    const uint8_t lane = n / 16, i = n % 16;
    order[n] = static_cast<uint8_t>(i / 8 * 32 + i % 2 * 16 + lane * 4 + i % 8 / 2);
  }
  return order;
}();

// Whole units; `page_bytes` of the page as it was. Of any bits, NaN included.
bool pack_page(const std::byte* page, int64_t page_bytes, std::byte* packed);
void unpack_page(const std::byte* packed, int64_t page_bytes, std::byte* page);

// For pages of bf16 in strips of 64 of which a head has so many, if heads are whole units and there
// are kernels that gain by it; else nullptr.
const state::PageCodec* page_codec(int64_t head_strips);

// The pages of a part in their long form, for readers that take no other.
class PlainPages {
 public:
  PlainPages(const state::PartView& view, int64_t page_bytes)
      : view_(view), page_bytes_(page_bytes) {}
  const std::byte* operator[](int64_t page);

 private:
  state::PartView view_;
  int64_t page_bytes_;
  std::unordered_map<int64_t, std::vector<std::byte>> unpacked_;
};

}  // namespace heddle::ops
