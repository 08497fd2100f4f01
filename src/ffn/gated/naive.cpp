// README.md's equations in float32.
#include "ops/naive.h"

#include "ffn/gated/gated.h"
#include "sublayer/naive.h"

namespace heddle::ffn::gated {

std::vector<float> naive(const sublayer::NaiveRun& run) {
  const std::vector<float> gate = run.product("ffn_gate", run.x);
  const std::vector<float> up = run.product("ffn_up", run.x);
  const auto width = static_cast<int64_t>(gate.size()) / run.tokens;
  std::vector<float> both;  // [T, gate | up]
  for (int64_t t = 0; t < run.tokens; ++t)
    for (const std::vector<float>* part : {&gate, &up})
      both.insert(both.end(), part->begin() + t * width, part->begin() + (t + 1) * width);
  std::vector<float> mixed(gate.size());
  const bool silu = run.params.text_or("activation", "silu") == "silu";
  ops::naive::gated(run.ctx,
                    {.gate_up = both.data(),
                     .tokens = run.tokens,
                     .width = width,
                     .activation = silu ? ops::Activation::silu : ops::Activation::gelu_tanh,
                     .out = mixed.data()});
  return run.product("ffn_down", mixed);
}

}  // namespace heddle::ffn::gated
