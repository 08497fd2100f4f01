#pragma once
// Hashes: XXH3 (xxhash) for content addressing and checksums. Not cryptographic.
#include <cstddef>
#include <cstdint>
#include <span>

namespace heddle {

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);
Hash128 hash128(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace heddle
