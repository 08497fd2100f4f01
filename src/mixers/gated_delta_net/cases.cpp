// Sizes that contract tests, goldens and benches run.
#include "mixers/gated_delta_net/kernels.h"

namespace heddle::mixers::gated_delta_net {
namespace {

sublayer::Case make_case(std::string name, int64_t d_model, int64_t key_heads, int64_t value_heads,
                         int64_t key_dim, int64_t value_dim, bool tiled) {
  sublayer::Params params{{"d_model", d_model},         {"key_heads", key_heads},
                          {"value_heads", value_heads}, {"key_dim", key_dim},
                          {"value_dim", value_dim},     {"taps", int64_t{4}},
                          {"norm_eps", double{1e-6}},   {"tiled", tiled}};
  return {std::move(name), std::move(params)};
}

}  // namespace

std::vector<sublayer::Case> cases() {
  std::vector<sublayer::Case> result;
  result.push_back(make_case("small", 48, 2, 2, 16, 16, false));
  result.push_back(make_case("grouped_odd", 40, 2, 4, 24, 40, false));
  result.push_back(make_case("tiled_odd", 40, 3, 6, 20, 9, true));
  result.push_back(make_case("quantised", 64, 2, 2, 16, 16, false));
  result.back().weights = DType::q8_0;
  // What one token forgets all of, beside what none forgets.
  result.push_back(make_case("extreme_gates", 48, 2, 4, 16, 16, false));
  result.back().init = {{"decay", sublayer::Init::uniform(-400, 0)},
                        {"dt_bias", sublayer::Init::uniform(-20, 20)}};
  result.push_back(make_case("qwen3.5-0.8b", 1024, 16, 16, 128, 128, false));
  result.back().bench = true;
  return result;
}

}  // namespace heddle::mixers::gated_delta_net
