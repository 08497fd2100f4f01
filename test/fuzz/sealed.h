#pragma once
// Files that end in a checksum of what comes before it: a parser behind it is reached only with a
// valid one.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/hash.h"

namespace heddle::test {

// Calls try_decode(bytes) with the input as it is, then with its last 16 bytes made its checksum.
template <class F>
void as_is_and_sealed(const uint8_t* data, size_t size, F try_decode) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  try_decode(bytes);
  if (size <= 16) return;
  const Hash128 checksum = hash128(std::span(bytes).first(size - 16));
  std::memcpy(bytes.data() + size - 16, &checksum.low, 8);
  std::memcpy(bytes.data() + size - 8, &checksum.high, 8);
  try_decode(bytes);
}

}  // namespace heddle::test
