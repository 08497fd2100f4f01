#pragma once
// The sequence kernel of Gated DeltaNet: convolution, gates, delta rule and gated norm, between the
// input and the output projection. Equations: README.md beside this file (Yang, Kautz, Hatamizadeh,
// arXiv 2412.06464).
#include <cstdint>

#include "backend/context.h"
#include "ops/conv/causal_conv.h"
#include "state/batch.h"

namespace heddle::mixers::gated_delta_net {

// Tokens between two summaries. 32: on average 16 records (1/4 of a 128 x 128 summary) are read
// beside the summary, and a fold's traffic is shared by 32 tokens.
constexpr int64_t kFold = 32;
// Heads are padded to whole groups of lanes in records and summaries; the padding is zero.
constexpr int64_t kLanes = 16;

constexpr int64_t pad_lanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

constexpr int64_t kConvPart = 0;
constexpr int64_t kDeltaPart = 1;

struct Sizes {
  int64_t d_model = 0;
  int64_t key_heads = 0;    // HK
  int64_t value_heads = 0;  // HV = R HK
  int64_t key_dim = 0;      // K
  int64_t value_dim = 0;    // V
  int64_t taps = 4;         // W
  double norm_eps = 1e-6;
  bool tiled = false;

  int64_t repeat() const { return value_heads / key_heads; }  // R
  // The r-th value head that reads key head h.
  int64_t value_head(int64_t h, int64_t r) const {
    return tiled ? r * key_heads + h : h * repeat() + r;
  }
  int64_t key_head(int64_t value_head) const {
    return tiled ? value_head % key_heads : value_head / repeat();
  }

  // The inverse: which of its key head's value heads.
  int64_t rank(int64_t value_head) const {
    return tiled ? value_head / key_heads : value_head % repeat();
  }

  // A row of the projections: [q HK K | k HK K | v HV V | z HV V | b HV | a HV].
  int64_t channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
  int64_t value_width() const { return value_heads * value_dim; }
  int64_t projected() const { return channels() + value_width() + 2 * value_heads; }

  // A record of the folded part is one strip per key head: [k Kp | u R Vp | g R, padded], p =
  // pad_lanes. So the records of a head since the boundary are one contiguous stream of its page.
  int64_t key_pad() const { return pad_lanes(key_dim); }
  int64_t value_pad() const { return pad_lanes(value_dim); }
  int64_t strip() const { return key_pad() + repeat() * value_pad() + pad_lanes(repeat()); }
  int64_t record() const { return key_heads * strip(); }
  // In an open page: the strip of a key head at a slot (k stands first), and what its r-th value
  // head keeps there.
  int64_t strip_at(int64_t key_head, int64_t slot) const {
    return (key_head * kFold + slot) * strip();
  }
  int64_t strip_value(int64_t r) const { return key_pad() + r * value_pad(); }
  int64_t strip_gate(int64_t r) const { return key_pad() + repeat() * value_pad() + r; }

  // A summary: [HV][Vp / 16][K][16], so that 16 columns of a state are one contiguous stream.
  int64_t summary_head() const { return key_dim * value_pad(); }
  int64_t summary() const { return value_heads * summary_head(); }
  int64_t summary_index(int64_t value_head, int64_t k, int64_t v) const {
    return value_head * summary_head() + (v / kLanes * key_dim + k) * kLanes + v % kLanes;
  }
};

struct MixArgs {
  const Sizes* sizes = nullptr;
  const state::BatchView* batch = nullptr;
  const state::StateView* state = nullptr;  // parts kConvPart, kDeltaPart
  const float* projected = nullptr;         // [T, projected()]
  const float* conv = nullptr;              // [taps, channels()]
  const float* decay = nullptr;             // [HV] = -exp(A_log)
  const float* dt_bias = nullptr;           // [HV]
  const float* norm = nullptr;              // [V]
  float* y = nullptr;                       // [T, HV V], input of the output projection
};

// The convolution over q, k and v.
inline ops::CausalConvArgs conv_args(const MixArgs& args) {
  ops::CausalConvArgs conv;
  conv.batch = args.batch;
  conv.state = args.state;
  conv.part = kConvPart;
  conv.channels = args.sizes->channels();
  conv.taps = args.sizes->taps;
  conv.weights = args.conv;
  conv.silu = true;
  conv.x = args.projected;
  conv.x_stride = args.sizes->projected();
  return conv;
}

namespace ref {
void mix(backend::Context& ctx, const MixArgs& args);
}  // namespace ref
namespace cpu {
void mix(backend::Context& ctx, const MixArgs& args);
}  // namespace cpu

}  // namespace heddle::mixers::gated_delta_net
