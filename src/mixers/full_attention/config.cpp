#include <cmath>

#include "mixers/full_attention/attention_layer.h"

namespace heddle::mixers::full_attention {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 20;

Result<int64_t> size(std::string_view kind, const sublayer::Params& params, std::string_view name) {
  HEDDLE_TRY(const int64_t value, params.integer(name));
  if (value < 1 || value > kMaxSize)
    return fail("{}: {} is {}, expected 1 to {}", kind, name, value, kMaxSize);
  return value;
}

Result<QkNorm> qk_norm(std::string_view kind, const sublayer::Params& params) {
  const std::string name = params.text_or("qk_norm", "none");
  if (name == "none") return QkNorm::none;
  if (name == "head") return QkNorm::head;
  if (name == "projection") return QkNorm::projection;
  return fail("{}: qk_norm is {}, expected none, head or projection", kind, name);
}

void read_rope(const sublayer::Params& params, AttentionConfig& c) {
  c.rope_freqs = params.flag_or("rope_freqs", false);
  ops::RopeSpec& rope = c.rope;
  rope.rotary = params.integer_or("rope_rotary", c.head_dim);
  rope.theta = params.number_or("rope_theta", rope.theta);
  rope.scaling = params.text_or("rope_scaling", rope.scaling);
  rope.factor = params.number_or("rope_factor", rope.factor);
  rope.low_freq_factor = params.number_or("rope_low_freq_factor", rope.low_freq_factor);
  rope.high_freq_factor = params.number_or("rope_high_freq_factor", rope.high_freq_factor);
  rope.original_context = params.number_or("rope_original_context", rope.original_context);
  rope.beta_fast = params.number_or("rope_beta_fast", rope.beta_fast);
  rope.beta_slow = params.number_or("rope_beta_slow", rope.beta_slow);
  rope.truncate = params.flag_or("rope_truncate", rope.truncate);
  rope.attention_factor = params.number_or("rope_attention_factor", rope.attention_factor);
}

Status check(std::string_view kind, const AttentionConfig& c) {
  if (c.heads % c.kv_heads != 0)
    return fail("{}: heads is {}, expected a multiple of kv_heads {}", kind, c.heads, c.kv_heads);
  // Keeps every product of sizes far from overflow.
  if (c.heads * std::max(c.head_dim, c.v_head_dim) > kMaxSize)
    return fail("{}: {} heads of {} and {} values: expected at most {} in all", kind, c.heads,
                c.head_dim, c.v_head_dim, kMaxSize);
  if (c.output_gate && c.v_head_dim != c.head_dim)
    return fail("{}: an output gate needs v_head_dim {} equal to head_dim {}", kind, c.v_head_dim,
                c.head_dim);
  if (c.output_gate && c.qkv_bias)
    return fail("{}: output_gate and qkv_bias together are not supported", kind);
  if (!std::isfinite(c.scale)) return fail("{}: scale is {}", kind, c.scale);
  if (!(c.soft_cap >= 0) || !std::isfinite(c.soft_cap))
    return fail("{}: soft_cap is {}, expected 0 (none) or more", kind, c.soft_cap);
  if (!(c.norm_eps >= 0)) return fail("{}: norm_eps is {}, expected >= 0", kind, c.norm_eps);
  if (c.rope.rotary < 0 || c.rope.rotary > c.head_dim)
    return fail("{}: rope_rotary is {}, expected 0 to head_dim {}", kind, c.rope.rotary,
                c.head_dim);
  return {};
}

}  // namespace

Result<AttentionConfig> read_config(std::string_view kind, const sublayer::Params& params,
                                    const sublayer::StatePrecision& precision, bool windowed) {
  AttentionConfig c;
  HEDDLE_TRY(c.d_model, size(kind, params, "d_model"));
  HEDDLE_TRY(c.heads, size(kind, params, "heads"));
  HEDDLE_TRY(c.kv_heads, size(kind, params, "kv_heads"));
  HEDDLE_TRY(c.head_dim, size(kind, params, "head_dim"));
  c.v_head_dim = c.head_dim;
  if (params.has("v_head_dim")) {
    HEDDLE_TRY(c.v_head_dim, size(kind, params, "v_head_dim"));
  }
  if (windowed) {
    HEDDLE_TRY(c.window, params.integer("window"));
    if (c.window < 2 || c.window > (int64_t{1} << 30))
      return fail("{}: window is {}, expected 2 to 2^30", kind, c.window);
  }
  c.scale = params.number_or("scale", 1 / std::sqrt(static_cast<double>(c.head_dim)));
  c.soft_cap = params.number_or("soft_cap", 0);
  c.norm_eps = params.number_or("norm_eps", 1e-6);
  HEDDLE_TRY(c.qk_norm, qk_norm(kind, params));
  c.output_gate = params.flag_or("output_gate", false);
  c.qkv_bias = params.flag_or("qkv_bias", false);
  c.o_bias = params.flag_or("o_bias", false);
  c.sinks = params.flag_or("sinks", false);
  c.kv_dtype = precision.records;
  read_rope(params, c);
  HEDDLE_TRY_STATUS(check(kind, c));
  // Scalings that make no sense are refused here, before any weight is read.
  HEDDLE_TRY([[maybe_unused]] const ops::Rope rope, ops::make_rope(c.rope));
  return c;
}

}  // namespace heddle::mixers::full_attention
