#pragma once
// Rotary position embedding on the first `rotary` dims of each head, pairs (i, i + rotary / 2)
// ("half-split"). Scalings: none, linear, llama3, yarn (reference: mixers.md 0.2 of the project's
// equations; RoFormer, arXiv 2104.09864).
#include <cstdint>
#include <string>
#include <vector>

#include "backend/context.h"
#include "base/result.h"

namespace heddle::ops {

struct RopeSpec {
  int64_t rotary = 0;  // dims rotated, even; 0 = no rotation (NoPE)
  double theta = 10000;
  std::string scaling = "none";  // none | linear | llama3 | yarn
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_context = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;
  double attention_factor = 0;  // yarn; 0 = 0.1 ln(factor) + 1
  std::vector<float>
      freq_factors;  // optional [rotary / 2]: inv_freq[i] / freq_factors[i] (GGUF rope_freqs)
  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

// Frequencies ready to use; immutable.
struct Rope {
  std::vector<double> inv_freq;  // [rotary / 2]
  double scale = 1;              // on cos and sin
  // Turns by n 64^level positions, n < 64, level < kRopeLevels: cos then sin of every frequency, so
  // that any position is a product of at most four complex numbers instead of a call of sincos.
  std::vector<double> turns;  // [levels, 64, 2, rotary / 2]
};
constexpr int64_t kRopeLevels = 4;
Result<Rope> make_rope(const RopeSpec& spec);

// x [T, heads, width], width >= rotary, with token stride `stride` (floats), rotated in place at
// `positions` [T] (not negative).
struct RopeArgs {
  float* x = nullptr;
  int64_t stride = 0;
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t width = 0;
  const int32_t* positions = nullptr;
  const Rope* rope = nullptr;
};
namespace ref {
void rope(backend::Context& ctx, const RopeArgs& args);
}
namespace cpu {
void rope(backend::Context& ctx, const RopeArgs& args);
}
void rope(backend::Context& ctx, const RopeArgs& args);

}  // namespace heddle::ops
