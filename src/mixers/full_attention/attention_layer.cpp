#include "mixers/full_attention/attention_layer.h"

#include <algorithm>
#include <utility>

#include "backend/profile.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/norm.h"
#include "ops/rows/rows.h"
#include "ops/work.h"

namespace heddle::mixers::full_attention {
namespace {

struct Weights {
  ops::PackedMatrix in;   // [projected_width, D]: v | k | q | gate
  ops::PackedMatrix out;  // [D, H V]
  std::shared_ptr<const ops::Rope> rope;
  tensor::Vector in_bias;   // [projected_width] or empty
  tensor::Vector out_bias;  // [D] or empty
  tensor::Vector q_norm;
  tensor::Vector k_norm;
  tensor::Vector sinks;  // [H] or empty
};

class AttentionMixer : public sublayer::SubLayer {
 public:
  AttentionMixer(const AttentionConfig& config, Weights weights)
      : c_(config), w_(std::move(weights)) {}

  void forward(backend::Context& ctx, const state::BatchView& batch, tensor::ConstRows x,
               const state::StateView& state, tensor::Rows y) const override {
    if (batch.tokens == 0) return;
    const backend::ArenaScope scope(ctx.scratch);
    const int64_t stride = c_.projected_width();
    const tensor::Rows projected = tensor::scratch_rows(ctx.scratch, batch.tokens, stride);
    const tensor::Rows mixed = tensor::scratch_rows(ctx.scratch, batch.tokens, c_.out_width());
    float* v = projected.f32();
    float* k = v + c_.v_width();
    float* q = k + c_.k_width();
    ops::project(ctx, "attention in", x, w_.in, projected);
    ops::add_bias(ctx, w_.in_bias, projected);
    const ops::KvView kv{shape(c_), &batch, &state, 0, 1};
    {
      const backend::ProfileScope part(ctx, "q k norm, rope, store");
      normalize(ctx, batch.tokens, k, c_.kv_heads, w_.k_norm);
      normalize(ctx, batch.tokens, q, c_.heads, w_.q_norm);
      if (c_.rope.rotary > 0)
        ops::rope(ctx, {k, stride, batch.tokens, c_.kv_heads + c_.heads, c_.head_dim,
                        batch.positions.data(), w_.rope.get()});
      ops::store_kv(ctx, {kv, k, stride, v, stride});
    }
    ops::AttentionArgs attention;
    attention.kv = kv;
    attention.heads = c_.heads;
    attention.scale = static_cast<float>(c_.scale);
    attention.soft_cap = static_cast<float>(c_.soft_cap);
    attention.window = c_.window;
    attention.sinks = w_.sinks.data();
    attention.q = q;
    attention.q_stride = stride;
    attention.out = mixed.f32();
    attention.out_stride = c_.out_width();
    {
      const backend::ProfileScope part(ctx, "attention",
                                       [&] { return ops::attention_work(attention); });
      ops::attention(ctx, attention);
    }
    if (c_.output_gate)
      ops::sigmoid_gate(ctx, {q + c_.q_width(), stride, batch.tokens, c_.out_width(), mixed.f32(),
                              c_.out_width()});
    ops::project(ctx, "attention out", mixed, w_.out, y);
    ops::add_bias(ctx, w_.out_bias, y);
  }

  int64_t weight_bytes() const override {
    return w_.in.bytes() + w_.out.bytes() + w_.in_bias.bytes() + w_.out_bias.bytes() +
           w_.q_norm.bytes() + w_.k_norm.bytes() + w_.sinks.bytes();
  }

  static ops::KvShape shape(const AttentionConfig& c) {
    return {c.kv_heads, c.head_dim, c.v_head_dim, c.kv_dtype};
  }

 private:
  void normalize(backend::Context& ctx, int64_t tokens, float* x, int64_t heads,
                 const tensor::Vector& weight) const {
    if (c_.qk_norm == QkNorm::none) return;
    ops::RmsNormArgs norm;
    norm.x = x;
    norm.x_stride = c_.projected_width();
    norm.rows = tokens;
    norm.width = c_.qk_norm == QkNorm::head ? c_.head_dim : heads * c_.head_dim;
    norm.groups = c_.qk_norm == QkNorm::head ? heads : 1;
    norm.weight = weight.data();
    norm.eps = static_cast<float>(c_.norm_eps);
    norm.y = x;
    norm.y_stride = norm.x_stride;
    ops::rms_norm(ctx, norm);
  }

  AttentionConfig c_;
  Weights w_;
};

// q_proj with a gate stores [q | gate] per head; the kernels want all of q, then all gates.
void separate_gates(const AttentionConfig& c, ops::MatrixSource& source) {
  std::vector<int32_t> order(static_cast<size_t>(source.rows));
  for (int64_t r = 0; r < source.rows; ++r) {
    const int64_t head = r % c.q_width() / c.head_dim;
    const int64_t part = r / c.q_width();  // 0: q, 1: gate
    const int64_t from = (2 * head + part) * c.head_dim + r % c.head_dim;
    order[static_cast<size_t>(r)] = source.row_order.empty()
                                        ? static_cast<int32_t>(from)
                                        : source.row_order[static_cast<size_t>(from)];
  }
  source.row_order = std::move(order);
}

class AttentionDesign : public sublayer::Design {
 public:
  explicit AttentionDesign(const AttentionConfig& config) : c_(config) {
    const int64_t window = c_.window > 0 ? c_.window - 1 : 0;
    const ops::KvShape shape = AttentionMixer::shape(c_);
    parts_ = {shape.key_part(window), shape.value_part(window)};
  }

  std::vector<state::StatePart> state_parts() const override { return parts_; }

  std::vector<sublayer::WeightSpec> weights() const override {
    using sublayer::Shard;
    std::vector<sublayer::WeightSpec> all = {
        {"q_proj", {c_.q_width() + c_.gate_width(), c_.d_model}, true, {}, Shard::rows},
        {"k_proj", {c_.k_width(), c_.d_model}, true, {}, Shard::rows},
        {"v_proj", {c_.v_width(), c_.d_model}, true, {}, Shard::rows},
        {"o_proj", {c_.d_model, c_.out_width()}, true, {}, Shard::cols}};
    const auto vector = [&](const char* name, int64_t n, sublayer::Init init, Shard shard) {
      all.push_back({name, {n}, false, init, shard});
    };
    if (c_.qkv_bias) {
      vector("q_bias", c_.q_width(), sublayer::kBiasInit, Shard::rows);
      vector("k_bias", c_.k_width(), sublayer::kBiasInit, Shard::rows);
      vector("v_bias", c_.v_width(), sublayer::kBiasInit, Shard::rows);
    }
    if (c_.o_bias) vector("o_bias", c_.d_model, sublayer::kBiasInit, Shard::none);
    if (c_.qk_norm != QkNorm::none) {
      const bool head = c_.qk_norm == QkNorm::head;
      const Shard shard = head ? Shard::none : Shard::rows;
      vector("q_norm", head ? c_.head_dim : c_.q_width(), sublayer::kNormInit, shard);
      vector("k_norm", head ? c_.head_dim : c_.k_width(), sublayer::kNormInit, shard);
    }
    if (c_.sinks) vector("sinks", c_.heads, sublayer::kBiasInit, Shard::rows);
    if (c_.rope_freqs)
      vector("rope_freqs", c_.rope.rotary / 2, sublayer::Init::uniform(1, 2), Shard::none);
    return all;
  }

  sublayer::Cost cost(int64_t position) const override {
    const auto d = static_cast<double>(c_.d_model);
    const double matrices = d * static_cast<double>(c_.projected_width() + c_.out_width());
    const int64_t seen = c_.window > 0 ? std::min(position + 1, c_.window) : position + 1;
    const auto pair = static_cast<double>(c_.head_dim + c_.v_head_dim);  // of one head and key
    sublayer::Cost cost;
    cost.flops = 2 * matrices + 2 * pair * static_cast<double>(c_.heads * seen);
    for (const state::StatePart& part : parts_)
      cost.state_read_bytes += static_cast<double>(part.held_bytes(seen));
    cost.state_write_bytes =
        static_cast<double>(dtype_bytes(c_.kv_dtype, c_.k_width() + c_.v_width()));
    return cost;
  }

  Result<std::unique_ptr<sublayer::SubLayer>> bind(ThreadPool& pool, sublayer::WeightSource& source,
                                                   const ops::PackOptions& options) const override {
    Weights w;
    HEDDLE_TRY(ops::MatrixSource q, source.matrix("q_proj"));
    HEDDLE_TRY(ops::MatrixSource k, source.matrix("k_proj"));
    HEDDLE_TRY(ops::MatrixSource v, source.matrix("v_proj"));
    HEDDLE_TRY(ops::MatrixSource o, source.matrix("o_proj"));
    if (c_.output_gate) separate_gates(c_, q);
    const ops::MatrixSource in[] = {std::move(v), std::move(k), std::move(q)};
    HEDDLE_TRY(w.in, ops::pack(pool, in, options));
    HEDDLE_TRY(w.out, ops::pack(pool, std::span(&o, 1), options));
    backend::WeightMemory& memory = *options.memory;
    if (c_.qkv_bias) {
      std::vector<float> all;
      for (const char* name : {"v_bias", "k_bias", "q_bias"}) {
        HEDDLE_TRY(const std::vector<float> bias, source.values(name));
        all.insert(all.end(), bias.begin(), bias.end());
      }
      HEDDLE_TRY(w.in_bias, tensor::Vector::of(all, memory));
    }
    if (c_.o_bias) {
      HEDDLE_TRY(w.out_bias, source.vector("o_bias", memory));
    }
    if (c_.qk_norm != QkNorm::none) {
      HEDDLE_TRY(w.q_norm, source.vector("q_norm", memory));
      HEDDLE_TRY(w.k_norm, source.vector("k_norm", memory));
    }
    if (c_.sinks) {
      HEDDLE_TRY(w.sinks, source.vector("sinks", memory));
    }
    ops::RopeSpec rope = c_.rope;
    if (c_.rope_freqs) {
      HEDDLE_TRY(rope.freq_factors, source.values("rope_freqs"));
    }
    HEDDLE_TRY(w.rope, source.rope(rope));
    return std::make_unique<AttentionMixer>(c_, std::move(w));
  }

 private:
  AttentionConfig c_;
  std::vector<state::StatePart> parts_;  // k, v
};

}  // namespace

std::unique_ptr<sublayer::Design> make_design(const AttentionConfig& config) {
  return std::make_unique<AttentionDesign>(config);
}

}  // namespace heddle::mixers::full_attention
