#pragma once
// The sequence kernel of Gated DeltaNet: convolution, gates, delta rule and gated norm, between the
// input and the output projection. Equations: README.md beside this file (Yang, Kautz, Hatamizadeh,
// arXiv 2412.06464); all but the rule itself is ops/linear_attention.
#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/context.h"
#include "ops/conv/causal_conv.h"
#include "ops/linear_attention/linear_attention.h"
#include "sublayer/sublayer.h"
#include "tensor/vector.h"

namespace heddle::mixers::gated_delta_net {

namespace linear = ops::linear_attention;

// Tokens between two summaries. 32: on average 16 records (1/4 of a 128 x 128 summary) are read
// beside the summary, and a fold's traffic is shared by 32 tokens.
constexpr int64_t kFold = 32;

constexpr int64_t kConvPart = 0;
constexpr int64_t kDeltaPart = 1;

struct Sizes : linear::FoldShape {
  Sizes() {
    fold = kFold;
    decay = linear::Decay::head;
    corrects = true;
  }
  int64_t d_model = 0;
  int64_t taps = 4;  // W
  double norm_eps = 1e-6;

  // A row of the projections: [q HK K | k HK K | v HV V | z HV V | b HV | a HV].
  int64_t query_at(int64_t key_head) const { return key_head * key_dim; }
  int64_t key_at(int64_t key_head) const { return (key_heads + key_head) * key_dim; }
  int64_t value_at(int64_t head) const { return 2 * key_heads * key_dim + head * value_dim; }
  int64_t channels() const { return value_at(value_heads); }  // of the convolution: q, k, v
  int64_t gate_at(int64_t head) const { return channels() + head * value_dim; }
  int64_t strength_at(int64_t head) const { return gate_at(value_heads) + head; }
  int64_t decay_at(int64_t head) const { return strength_at(value_heads) + head; }
  int64_t projected() const { return decay_at(value_heads); }
};

// All but the matrices.
struct Weights {
  tensor::Vector conv;     // [taps, channels()]
  tensor::Vector decay;    // [HV] = -exp(A_log)
  tensor::Vector dt_bias;  // [HV]
  tensor::Vector norm;     // [V]
};

struct MixArgs : linear::FoldArgs {
  // Without a step. Both must outlive it.
  MixArgs(const Sizes& s, const Weights& w) : sizes(s), weights(w) {
    shape = &sizes;
    part = kDeltaPart;
    conv.part = kConvPart;
    conv.channels = s.channels();
    conv.taps = s.taps;
    conv.weights = w.conv.data();
    conv.silu = true;
    conv.x_stride = s.projected();
  }
  // projected [T, projected()], y [T, HV V]
  void set_step(const state::BatchView& b, const state::StateView& s, const float* projected,
                float* out) {
    batch = conv.batch = &b;
    state = conv.state = &s;
    conv.x = projected;
    y = out;
  }

  const Sizes& sizes;
  const Weights& weights;
  ops::CausalConvArgs conv;  // over q, k and v, the first channels of the projections
};

// The matrices whose products are a row of projections, in its order.
inline const std::vector<std::string_view> kInputs{"qkv_proj", "z_proj", "b_proj", "a_proj"};

std::vector<sublayer::Case> cases();
std::vector<float> naive(const sublayer::NaiveRun& run);
std::vector<sublayer::Probe> probes();
// The parameters, checked.
Result<Sizes> read_sizes(const sublayer::Params& params);
// In `memory`, which must outlive them.
Result<Weights> read_weights(sublayer::WeightSource& source, const Sizes& sizes,
                             backend::WeightMemory& memory);
// In the order of kConvPart, kDeltaPart.
std::vector<state::StatePart> state_parts(const Sizes& sizes);
// What the kernels cannot do without for the batch.
backend::Work mix_work(const Sizes& sizes, const state::BatchView& batch);

namespace ref {
void mix(backend::Context& ctx, const MixArgs& args);
}  // namespace ref
namespace cpu {
void mix(backend::Context& ctx, const MixArgs& args);
}  // namespace cpu

}  // namespace heddle::mixers::gated_delta_net
