// The attention layer over whole sequences in float32, one loop and one running sum for everything.
#include "ops/naive.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "mixers/full_attention/attention_layer.h"
#include "sublayer/naive.h"

namespace heddle::mixers::full_attention {
namespace {

class Naive {
 public:
  Naive(const AttentionConfig& config, const sublayer::NaiveRun& run) : c_(config), run_(run) {}

  std::vector<float> layer() {
    std::vector<float> q = run_.product("q_proj", run_.x), gate;
    if (c_.output_gate) split(q, gate);
    std::vector<float> k = run_.product("k_proj", run_.x);
    std::vector<float> v = run_.product("v_proj", run_.x);
    if (c_.qkv_bias) {
      add("q_bias", q);
      add("k_bias", k);
      add("v_bias", v);
    }
    normalise("q_norm", c_.heads, q);
    normalise("k_norm", c_.kv_heads, k);
    rotate(c_.heads, q);
    rotate(c_.kv_heads, k);
    if (c_.kv_dtype == DType::bf16)
      for (std::vector<float>* stored : {&k, &v})
        for (float& value : *stored) value = bf16_to_f32(f32_to_bf16(value));
    std::vector<float> mixed(static_cast<size_t>(run_.tokens * c_.out_width()));
    if (c_.sinks) sinks_ = run_.values("sinks");
    for (int64_t t = 0; t < run_.tokens; ++t)
      for (int64_t h = 0; h < c_.heads; ++h)
        attend(t, h, q, k, v, mixed.data() + t * c_.out_width() + h * c_.v_head_dim);
    for (size_t i = 0; i < gate.size(); ++i) mixed[i] *= 1 / (1 + std::exp(-gate[i]));
    std::vector<float> y = run_.product("o_proj", mixed);
    if (c_.o_bias) add("o_bias", y);
    return y;
  }

 private:
  // Of each head [q | gate].
  void split(std::vector<float>& q, std::vector<float>& gate) const {
    std::vector<float> both = std::move(q);
    q.clear();
    for (size_t i = 0; i < both.size(); ++i)
      (static_cast<int64_t>(i) / c_.head_dim % 2 == 0 ? q : gate).push_back(both[i]);
  }
  void add(const char* name, std::vector<float>& x) const {
    const std::vector<float> bias = run_.values(name);
    for (size_t i = 0; i < x.size(); ++i) x[i] += bias[i % bias.size()];
  }
  void normalise(const char* name, int64_t heads, std::vector<float>& x) const {
    if (c_.qk_norm == QkNorm::none) return;
    const std::vector<float> weight = run_.values(name);
    const auto width = static_cast<int64_t>(weight.size());
    ops::naive::rms_norm(run_.ctx, {.x = x.data(),
                                    .x_stride = width,
                                    .rows = std::ssize(x) / width,
                                    .width = width,
                                    .weight = weight.data(),
                                    .eps = static_cast<float>(c_.norm_eps),
                                    .y = x.data(),
                                    .y_stride = width});
    HEDDLE_CHECK(width == c_.head_dim || width == heads * c_.head_dim);
  }
  void rotate(int64_t heads, std::vector<float>& x) const {
    if (c_.rope.rotary == 0) return;
    ops::RopeSpec spec = c_.rope;
    if (c_.rope_freqs) spec.freq_factors = run_.values("rope_freqs");
    const auto rope = run_.weights.rope(spec);
    HEDDLE_CHECK(rope.has_value(), "naive form: no such rotation");
    std::vector<int32_t> positions(static_cast<size_t>(run_.tokens));
    for (size_t t = 0; t < positions.size(); ++t) positions[t] = static_cast<int32_t>(t);
    ops::naive::rope(run_.ctx, {x.data(), heads * c_.head_dim, run_.tokens, heads, c_.head_dim,
                                positions.data(), rope->get()});
  }
  void attend(int64_t t, int64_t h, const std::vector<float>& q, const std::vector<float>& k,
              const std::vector<float>& v, float* out) const {
    const int64_t g = h / (c_.heads / c_.kv_heads);
    const int64_t first = c_.window > 0 ? std::max<int64_t>(0, t - c_.window + 1) : 0;
    const float* query = q.data() + t * c_.q_width() + h * c_.head_dim;
    std::vector<float> scores;
    float top = c_.sinks ? sinks_[static_cast<size_t>(h)] : -INFINITY;
    for (int64_t j = first; j <= t; ++j) {
      const float* key = k.data() + j * c_.k_width() + g * c_.head_dim;
      float dot = 0;
      for (int64_t d = 0; d < c_.head_dim; ++d) dot += query[d] * key[d];
      dot *= static_cast<float>(c_.scale);
      const auto cap = static_cast<float>(c_.soft_cap);
      if (cap > 0) dot = cap * std::tanh(dot / cap);
      scores.push_back(dot);
      top = std::max(top, dot);
    }
    float total = c_.sinks ? std::exp(sinks_[static_cast<size_t>(h)] - top) : 0.0f;
    for (float& score : scores) total += score = std::exp(score - top);
    for (int64_t e = 0; e < c_.v_head_dim; ++e) {
      float sum = 0;
      for (int64_t j = first; j <= t; ++j)
        sum += scores[static_cast<size_t>(j - first)] *
               v[static_cast<size_t>(j * c_.v_width() + g * c_.v_head_dim + e)];
      out[e] = sum / total;
    }
  }

  const AttentionConfig& c_;
  const sublayer::NaiveRun& run_;
  std::vector<float> sinks_;
};

}  // namespace

std::vector<float> attention_naive(const sublayer::NaiveRun& run, bool windowed) {
  const auto config = read_config("naive", run.params, run.precision, windowed);
  HEDDLE_CHECK(config.has_value(), "naive form: parameters that no design takes");
  return Naive(*config, run).layer();
}

}  // namespace heddle::mixers::full_attention
