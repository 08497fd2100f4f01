#pragma once
// The rule of README.md as it is written there, in the precision of its inputs: the specification
// and, over whole sequences, the measure of errors.
#include <cmath>
#include <vector>

#include "mixers/gated_delta_net/kernels.h"
#include "ops/linear_attention/inputs.h"
#include "ops/linear_attention/recurrence.h"

namespace heddle::mixers::gated_delta_net {

template <class Inputs>
class Equations {
 public:
  using Real = typename Inputs::Real;
  using Values = std::vector<Real>;

  Equations(const MixArgs& args, const Inputs& inputs)
      : args_(args), s_(args.sizes), inputs_(inputs) {}

  const linear::FoldShape& shape() const { return s_; }
  Values key(const linear::Row& row, int64_t head) const {
    return linear::unit_length(convolved(row, s_.key_at(head), s_.key_dim), Real(1));
  }
  Values query(const linear::Row& row, int64_t head) const {
    return linear::unit_length(convolved(row, s_.query_at(head), s_.key_dim),
                               std::sqrt(Real(s_.key_dim)));
  }
  Values value(const linear::Row& row, int64_t head) const {
    return convolved(row, s_.value_at(head), s_.value_dim);
  }
  Real strength(const linear::Row& row, int64_t head) const {
    return linear::sigmoid(inputs_.projected(row, s_.strength_at(head)));
  }
  Values log_decay(const linear::Row& row, int64_t head) const {
    const Real x =
        inputs_.projected(row, s_.decay_at(head)) + Real(args_.weights.dt_bias.data()[head]);
    return {Real(args_.weights.decay.data()[head]) * linear::softplus(x)};
  }
  Real skip(int64_t) const { return 0; }
  Values finish(const linear::Row& row, const Values& o) const {
    Values y = linear::rms_norm(o, s_.value_dim, args_.weights.norm.data(), s_.norm_eps);
    for (size_t i = 0; i < y.size(); ++i)
      y[i] *= linear::silu(inputs_.projected(row, s_.gate_at(0) + static_cast<int64_t>(i)));
    return y;
  }

 private:
  Values convolved(const linear::Row& row, int64_t channel, int64_t width) const {
    Values x;
    for (int64_t c = 0; c < width; ++c) x.push_back(inputs_.convolved(row, channel + c));
    return x;
  }

  const MixArgs& args_;
  const Sizes& s_;
  Inputs inputs_;
};

// Of `args`: sizes and weights. rows [tokens][projected()] of a sequence from position 0; result
// [tokens][HV V].
template <class T>
std::vector<std::vector<T>> recurrence(const MixArgs& args,
                                       const std::vector<std::vector<T>>& rows) {
  const linear::SequenceInputs<T> inputs{args.conv, rows};
  return linear::recurrence(Equations(args, inputs), static_cast<int64_t>(rows.size()));
}

}  // namespace heddle::mixers::gated_delta_net
