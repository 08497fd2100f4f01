// The specification: float64, token by token (ops/linear_attention/recurrence.h).
#include "mixers/gated_delta_net/equations.h"

namespace heddle::mixers::gated_delta_net {

void ref::mix(backend::Context&, const MixArgs& args) {
  linear::reference_step(args, Equations(args, linear::BatchInputs{args.conv}));
  ops::causal_conv_store(args.conv);
}

}  // namespace heddle::mixers::gated_delta_net
