#pragma once
// Counter-based random numbers: a value is a pure function of (seed, counter), so neither order nor
// batching changes it. Mixing: SplitMix64 finaliser (Steele, Lea, Flood 2014), applied twice.
#include <cstdint>

namespace heddle {

inline uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

inline uint64_t random_u64(uint64_t seed, uint64_t counter) {
  return mix64(mix64(seed) ^ mix64(~counter));
}

// Uniform in [0, 1) with 53 bits.
inline double random_unit(uint64_t seed, uint64_t counter) {
  return static_cast<double>(random_u64(seed, counter) >> 11) * 0x1.0p-53;
}

// A sequential view of the same function, for tests and initialisers.
class Rng {
 public:
  explicit Rng(uint64_t seed) : seed_(seed) {}
  uint64_t next() { return random_u64(seed_, counter_++); }
  double unit() { return random_unit(seed_, counter_++); }
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(next() % static_cast<uint64_t>(bound));
  }
  float normal();  // mean 0, deviation 1 (Box-Muller)

 private:
  uint64_t seed_;
  uint64_t counter_ = 0;
};

}  // namespace heddle
