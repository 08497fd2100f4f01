// Sizes that contract tests, goldens and benches run: each small case holds a different set of
// options.
#include "mixers/full_attention/attention_layer.h"

namespace heddle::mixers::full_attention {
namespace {

sublayer::Case make_case(const std::string& name, int64_t d_model, int64_t heads, int64_t kv_heads,
                         int64_t head_dim) {
  return {name,
          {{"d_model", d_model},
           {"heads", heads},
           {"kv_heads", kv_heads},
           {"head_dim", head_dim},
           {"norm_eps", 1e-6},
           {"rope_theta", 1e4}}};
}

// The shapes of real layers, for benches.
void add_real(std::vector<sublayer::Case>& cases) {
  cases.push_back(make_case("smollm2-135m", 576, 9, 3, 64));
  cases.push_back(make_case("qwen35-0.8b", 1024, 8, 2, 256));
  cases.back()
      .params.set("output_gate", true)
      .set("qk_norm", std::string("head"))
      .set("rope_rotary", int64_t{64});
  cases.push_back(make_case("marin-8b", 4096, 32, 8, 128));
  for (sublayer::Case& c : cases) c.bench = true;
}

}  // namespace

std::vector<sublayer::Case> attention_cases(int64_t window) {
  std::vector<sublayer::Case> cases;
  if (window == 0) add_real(cases);
  if (window != 100) cases.push_back(make_case("gqa", 48, 6, 2, 16));
  if (window == 0) {
    cases.push_back(make_case("gated", 32, 4, 2, 32));
    cases.back()
        .params.set("output_gate", true)
        .set("qk_norm", std::string("head"))
        .set("rope_rotary", int64_t{8});
    cases.back().precision.records = DType::f32;
    cases.push_back(make_case("yarn", 32, 2, 1, 16));
    cases.back()
        .params.set("rope_scaling", std::string("yarn"))
        .set("rope_factor", 8.0)
        .set("rope_original_context", 64.0)
        .set("rope_freqs", true);
  }
  if (window != 17) {
    cases.push_back(make_case("quantised", 64, 4, 2, 16));
    cases.back().weights = DType::q4_0;
    cases.push_back(make_case("packed", 64, 3, 1, 64));  // heads that fill packed pages
    cases.push_back(make_case("odd", 40, 7, 1, 10));
    cases.back()
        .params.set("v_head_dim", int64_t{13})
        .set("qk_norm", std::string("projection"))
        .set("qkv_bias", true)
        .set("o_bias", true)
        .set("soft_cap", 20.0)
        .set("sinks", true)
        .set("rope_rotary", int64_t{window == 0 ? 6 : 0});
  }
  if (window > 0)
    for (sublayer::Case& c : cases) {
      c.params.set("window", window);
      c.name += "-w" + std::to_string(window);
    }
  return cases;
}

}  // namespace heddle::mixers::full_attention
