// Sizes that contract tests and benches run.
#include "ffn/gated/gated.h"

namespace heddle::ffn::gated {

std::vector<sublayer::Case> cases() {
  return {{"silu", {{"d_model", int64_t{48}}, {"width", int64_t{96}}}},
          {"gelu",
           {{"d_model", int64_t{37}},
            {"width", int64_t{51}},
            {"activation", std::string("gelu_tanh")}}},
          {"smollm2-135m",
           {{"d_model", int64_t{576}}, {"width", int64_t{1536}}, {"bench_only", true}}}};
}

}  // namespace heddle::ffn::gated
