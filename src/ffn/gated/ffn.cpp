// The gated feed-forward: y = W_down(act(W_gate x) * W_up x). Equations: README.md.
#include <utility>

#include "backend/profile.h"
#include "ffn/gated/gated.h"
#include "ops/elementwise/activation.h"
#include "ops/work.h"

namespace heddle::ffn {
namespace gated {
namespace {

struct Config {
  int64_t d_model = 0;  // D
  int64_t width = 0;    // N
  ops::Activation activation = ops::Activation::silu;
};

struct Weights {
  ops::PackedMatrix in;   // [2 N, D]: gate | up
  ops::PackedMatrix out;  // [D, N]
};

class Gated : public sublayer::SubLayer {
 public:
  Gated(const Config& config, Weights weights) : c_(config), w_(std::move(weights)) {}

  void forward(backend::Context& ctx, const state::BatchView& batch, tensor::ConstRows x,
               const state::StateView&, tensor::Rows y) const override {
    if (batch.tokens == 0) return;
    const backend::ArenaScope scope(ctx.scratch);
    const tensor::Rows gate_up = tensor::scratch_rows(ctx.scratch, batch.tokens, 2 * c_.width);
    const tensor::Rows mixed = tensor::scratch_rows(ctx.scratch, batch.tokens, c_.width);
    ops::project(ctx, "ffn gate and up", x, w_.in, gate_up);
    {
      const backend::ProfileScope part(ctx, "ffn activation");
      ops::gated(ctx, {.gate_up = gate_up.f32(),
                       .tokens = batch.tokens,
                       .width = c_.width,
                       .activation = c_.activation,
                       .out = mixed.f32()});
    }
    ops::project(ctx, "ffn down", mixed, w_.out, y);
  }

  int64_t weight_bytes() const override { return w_.in.bytes() + w_.out.bytes(); }

 private:
  Config c_;
  Weights w_;
};

class Design : public sublayer::Design {
 public:
  explicit Design(const Config& config) : c_(config) {}

  std::vector<state::StatePart> state_parts() const override { return {}; }

  std::vector<sublayer::WeightSpec> weights() const override {
    using sublayer::Shard;
    return {{"ffn_gate", {c_.width, c_.d_model}, true, {}, Shard::rows},
            {"ffn_up", {c_.width, c_.d_model}, true, {}, Shard::rows},
            {"ffn_down", {c_.d_model, c_.width}, true, {}, Shard::cols}};
  }

  sublayer::Cost cost(int64_t) const override {
    const auto values = 3 * static_cast<double>(c_.d_model) * static_cast<double>(c_.width);
    return {.flops = 2 * values};
  }

  Result<std::unique_ptr<sublayer::SubLayer>> bind(ThreadPool& pool, sublayer::WeightSource& source,
                                                   const ops::PackOptions& options) const override {
    Weights w;
    HEDDLE_TRY(ops::MatrixSource gate, source.matrix("ffn_gate"));
    HEDDLE_TRY(ops::MatrixSource up, source.matrix("ffn_up"));
    const ops::MatrixSource in[] = {std::move(gate), std::move(up)};
    HEDDLE_TRY(w.in, ops::pack(pool, in, options));
    HEDDLE_TRY(const ops::MatrixSource down, source.matrix("ffn_down"));
    HEDDLE_TRY(w.out, ops::pack(pool, {&down, 1}, options));
    return std::make_unique<Gated>(c_, std::move(w));
  }

 private:
  Config c_;
};

Result<std::unique_ptr<sublayer::Design>> make_design(const sublayer::Params& params,
                                                      const sublayer::StatePrecision&) {
  constexpr int64_t kMaxSize = int64_t{1} << 20;
  Config c;
  HEDDLE_TRY(c.d_model, params.integer("d_model"));
  HEDDLE_TRY(c.width, params.integer("width"));
  for (const int64_t size : {c.d_model, c.width})
    if (size < 1 || size > kMaxSize)
      return fail("gated: d_model {} and width {}, expected 1 to {}", c.d_model, c.width, kMaxSize);
  const std::string activation = params.text_or("activation", "silu");
  if (activation == "gelu_tanh") {
    c.activation = ops::Activation::gelu_tanh;
  } else if (activation != "silu") {
    return fail("gated: activation is {}, expected silu or gelu_tanh", activation);
  }
  return std::make_unique<Design>(c);
}

}  // namespace
}  // namespace gated

const sublayer::Kind& gated_kind() {
  static const sublayer::Kind kind{"gated", gated::make_design, gated::cases, gated::naive};
  return kind;
}

}  // namespace heddle::ffn
