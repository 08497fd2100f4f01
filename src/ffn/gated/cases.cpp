// Sizes that contract tests and benches run.
#include "ffn/gated/gated.h"

namespace heddle::ffn::gated {

std::vector<sublayer::Case> cases() {
  const auto params = [](int64_t d_model, int64_t width, const char* activation) {
    return sublayer::Params(
        {{"d_model", d_model}, {"width", width}, {"activation", std::string(activation)}});
  };
  return {{"silu", params(48, 96, "silu")},
          {"gelu", params(37, 51, "gelu_tanh")},
          {.name = "quantised", .params = params(64, 96, "silu"), .weights = DType::q4_0},
          {.name = "smollm2-135m", .params = params(576, 1536, "silu"), .bench = true}};
}

}  // namespace heddle::ffn::gated
