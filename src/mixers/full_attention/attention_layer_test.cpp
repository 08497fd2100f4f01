// The whole layer against its equations in float64, from the raw weights; the parameters that are
// refused; the declared cost.
#include "mixers/full_attention/attention_layer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "sublayer/kind_table.h"
#include "test/support/mixer_rig.h"

namespace heddle::mixers::full_attention {
namespace {

using sublayer::RandomWeights;
using test::MixerRig;
using test::Rows;

const sublayer::Kind& kind(std::string_view name) {
  auto found = sublayer::find_kind(name);
  EXPECT_TRUE(found.has_value());
  return **found;
}

// The equations of README.md for one sequence, nothing shared with the kernels: in double the
// truth, in float the naive layer whose error sets the budget.
template <class Real>
class Equations {
  using Vector = std::vector<Real>;

 public:
  Equations(const AttentionConfig& config, const MixerRig& rig)
      : c_(config), weights_(rig.weights()) {}

  std::vector<Vector> run(const std::vector<std::vector<float>>& x) {
    std::vector<Vector> q, k, v, gate, y;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector in(x[t].begin(), x[t].end());
      const Vector q_rows = product("q_proj", in);
      const int64_t step = c_.output_gate ? 2 * c_.head_dim : c_.head_dim;
      q.emplace_back();
      gate.emplace_back();
      for (int64_t h = 0; h < c_.heads; ++h) {
        for (int64_t i = 0; i < step; ++i) {
          const Real value = q_rows[static_cast<size_t>(h * step + i)];
          (i < c_.head_dim ? q : gate).back().push_back(value);
        }
      }
      k.push_back(product("k_proj", in));
      v.push_back(product("v_proj", in));
      add(q.back(), "q_bias");
      add(k.back(), "k_bias");
      add(v.back(), "v_bias");
      norm(q.back(), "q_norm");
      norm(k.back(), "k_norm");
      rotate(q.back(), c_.heads, static_cast<int64_t>(t));
      rotate(k.back(), c_.kv_heads, static_cast<int64_t>(t));
      Vector o = attend(q, k, v);
      for (size_t i = 0; i < gate.back().size(); ++i) o[i] /= 1 + std::exp(-gate.back()[i]);
      y.push_back(product("o_proj", o));
      add(y.back(), "o_bias");
    }
    return y;
  }

 private:
  Vector product(const char* name, const Vector& x) {
    const ops::MatrixSource m = *weights_.matrix(name);
    const auto* w = reinterpret_cast<const float*>(m.data);
    Vector y;
    for (int64_t r = 0; r < m.rows; ++r) {
      Real sum = 0;
      for (int64_t i = 0; i < m.cols; ++i) sum += w[r * m.cols + i] * x[static_cast<size_t>(i)];
      y.push_back(sum);
    }
    return y;
  }
  void add(Vector& x, const char* name) {
    const bool qkv = std::string_view(name) != "o_bias";
    if (!(qkv ? c_.qkv_bias : c_.o_bias)) return;
    const auto bias = *weights_.values(name);
    for (size_t i = 0; i < x.size(); ++i) x[i] += bias[i];
  }
  void norm(Vector& x, const char* name) {
    if (c_.qk_norm == QkNorm::none) return;
    const auto w = *weights_.values(name);
    for (size_t from = 0; from < x.size(); from += w.size()) {
      Real squares = 0;
      for (size_t i = 0; i < w.size(); ++i) squares += x[from + i] * x[from + i];
      const Real rms =
          std::sqrt(squares / static_cast<Real>(w.size()) + static_cast<Real>(c_.norm_eps));
      for (size_t i = 0; i < w.size(); ++i) x[from + i] *= w[i] / rms;
    }
  }
  void rotate(Vector& x, int64_t heads, int64_t position) const {
    const int64_t half = c_.rope.rotary / 2;
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const Real angle = static_cast<Real>(position) *
                           std::pow(c_.rope.theta, -static_cast<Real>(i) / static_cast<Real>(half));
        Real& a = x[static_cast<size_t>(h * c_.head_dim + i)];
        Real& b = x[static_cast<size_t>(h * c_.head_dim + i + half)];
        const Real first = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = first;
      }
    }
  }
  // Of the last token.
  Vector attend(const std::vector<Vector>& q, const std::vector<Vector>& k,
                const std::vector<Vector>& v) {
    const auto t = static_cast<int64_t>(q.size()) - 1;
    const int64_t first = c_.window > 0 ? std::max<int64_t>(0, t - c_.window + 1) : 0;
    Vector o;
    for (int64_t h = 0; h < c_.heads; ++h) {
      const int64_t g = h / (c_.heads / c_.kv_heads);
      Real total = c_.sinks ? std::exp((*weights_.values("sinks"))[static_cast<size_t>(h)]) : 0;
      Vector sum(static_cast<size_t>(c_.v_head_dim));
      for (int64_t j = first; j <= t; ++j) {
        Real s = 0;
        for (int64_t d = 0; d < c_.head_dim; ++d)
          s += q.back()[static_cast<size_t>(h * c_.head_dim + d)] *
               k[static_cast<size_t>(j)][static_cast<size_t>(g * c_.head_dim + d)];
        s *= static_cast<Real>(c_.scale);
        const auto cap = static_cast<Real>(c_.soft_cap);
        if (cap > 0) s = cap * std::tanh(s / cap);
        const Real p = std::exp(s);
        total += p;
        for (size_t e = 0; e < sum.size(); ++e)
          sum[e] += p * v[static_cast<size_t>(j)][static_cast<size_t>(g * c_.v_head_dim) + e];
      }
      for (const Real e : sum) o.push_back(e / total);
    }
    return o;
  }

  AttentionConfig c_;
  sublayer::RandomWeights weights_;
};

double relative_error(const std::vector<std::vector<float>>& got,
                      const std::vector<std::vector<double>>& expected) {
  double error = 0;
  double size = 0;
  for (size_t t = 0; t < got.size(); ++t) {
    for (size_t i = 0; i < got[t].size(); ++i) {
      error += std::pow(got[t][i] - expected[t][i], 2);
      size += std::pow(expected[t][i], 2);
    }
  }
  return std::sqrt(error / size);
}

constexpr sublayer::StatePrecision kExact = {.records = DType::f32};

sublayer::Params small() {
  return {{"d_model", int64_t{24}},
          {"heads", int64_t{4}},
          {"kv_heads", int64_t{2}},
          {"head_dim", int64_t{8}}};
}

void expect_equations(std::string_view mixer, const sublayer::Params& params) {
  const bool windowed = mixer == "sliding_window";
  const auto config = read_config(mixer, params, kExact, windowed);
  ASSERT_TRUE(config.has_value()) << config.error().message;
  for (const auto kernels : {backend::KernelSet::reference, backend::KernelSet::cpu}) {
    MixerRig rig(kind(mixer), {"test", params, kExact}, kernels, 2);
    const auto tokens = test::random_tokens(90, 1);
    std::vector<std::vector<float>> x;
    for (size_t t = 0; t < tokens.size(); ++t)
      x.push_back(rig.input(tokens[t], static_cast<int64_t>(t)));
    const auto expected = Equations<double>(*config, rig).run(x);
    const auto naive = Equations<float>(*config, rig).run(x);
    auto sequence = rig.sequence();
    const Rows got = rig.feed(*sequence, tokens, 40);
    EXPECT_LE(relative_error(got, expected), 2 * relative_error(naive, expected));
  }
}

TEST(AttentionLayer, PlainLayer) { expect_equations("full_attention", small()); }

TEST(AttentionLayer, OutputGateOfEachHeadFollowsItsQuery) {
  expect_equations("full_attention", small()
                                         .set("output_gate", true)
                                         .set("qk_norm", std::string("head"))
                                         .set("rope_rotary", int64_t{4}));
}

TEST(AttentionLayer, BiasesProjectionNormSinksAndCap) {
  expect_equations("full_attention", small()
                                         .set("qkv_bias", true)
                                         .set("o_bias", true)
                                         .set("v_head_dim", int64_t{5})
                                         .set("qk_norm", std::string("projection"))
                                         .set("sinks", true)
                                         .set("soft_cap", 3.0)
                                         .set("scale", 0.5)
                                         .set("rope_theta", 100.0));
}

TEST(AttentionLayer, SlidingWindowSeesWKeysItsOwnIncluded) {
  for (const int64_t window : {2, 9, 65})
    expect_equations("sliding_window", small().set("window", window));
}

TEST(AttentionLayer, RefusesParametersThatMakeNoSense) {
  const auto message = [](const std::function<void(sublayer::Params&)>& change,
                          bool windowed = false) {
    sublayer::Params params = small();
    change(params);
    const auto config = read_config("attention", params, kExact, windowed);
    return config ? std::string() : config.error().message;
  };
  EXPECT_EQ(message([](sublayer::Params&) {}), "");
  EXPECT_NE(message([](sublayer::Params& p) { p.set("heads", int64_t{0}); }), "");
  EXPECT_NE(message([](sublayer::Params& p) { p.set("heads", int64_t{1} << 40); }), "");
  EXPECT_NE(message([](sublayer::Params& p) { p.set("kv_heads", int64_t{3}); }), "");
  EXPECT_NE(message([](sublayer::Params& p) { p.set("head_dim", int64_t{7}); }),
            "");  // odd rotation
  EXPECT_NE(message([](sublayer::Params& p) { p.set("rope_rotary", int64_t{10}); }), "");
  EXPECT_NE(message([](sublayer::Params& p) { p.set("rope_scaling", std::string("magic")); }), "");
  EXPECT_NE(message([](sublayer::Params& p) { p.set("qk_norm", std::string("both")); }), "");
  EXPECT_NE(message([](sublayer::Params& p) { p.set("soft_cap", -1.0); }), "");
  EXPECT_NE(message([](sublayer::Params& p) {
              p.set("v_head_dim", int64_t{4}).set("output_gate", true);
            }),
            "");
  EXPECT_NE(message([](sublayer::Params&) {}, true), "");  // no window
  EXPECT_NE(message([](sublayer::Params& p) { p.set("window", int64_t{1}); }, true), "");
}

TEST(AttentionLayer, CostCountsMatricesKeysAndRecords) {
  const auto config =
      read_config("sliding_window", small().set("window", int64_t{10}), kExact, true);
  ASSERT_TRUE(config.has_value());
  const auto design = make_design(*config);
  // 24 (32 + 16 + 16) + 32 24 weights; 4 heads of 8 + 8; a record of 2 (8 + 8) floats.
  const sublayer::Cost early = design->cost(3);
  EXPECT_EQ(early.flops, 2 * (24 * 64 + 32 * 24) + 2 * 4 * 16 * 4);
  EXPECT_EQ(early.state_write_bytes, 128);
  EXPECT_EQ(early.state_read_bytes, 4 * 128);
  EXPECT_EQ(design->cost(1000).state_read_bytes, 10 * 128);
}

}  // namespace
}  // namespace heddle::mixers::full_attention
