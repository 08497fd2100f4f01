#include "model/model.h"

#include <algorithm>
#include <cstring>

#include "backend/profile.h"
#include "base/check.h"
#include "base/denormals.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/norm.h"
#include "ops/matmul/project.h"

namespace heddle::model {
namespace {

void norm_rows(backend::Context& ctx, const float* x, int64_t rows, int64_t width,
               const std::vector<float>& weight, float eps, float* y) {
  const backend::ProfileScope part(ctx, "norm");
  ops::rms_norm(ctx, {.x = x,
                      .x_stride = width,
                      .rows = rows,
                      .width = width,
                      .weight = weight.data(),
                      .eps = eps,
                      .y = y,
                      .y_stride = width});
}

void add(backend::Context& ctx, const float* x, int64_t count, float* y) {
  const backend::ProfileScope part(ctx, "residual");
  ops::add(ctx, x, count, y);
}

float* gather(backend::Context& ctx, const float* x, int64_t width, std::span<const int32_t> rows) {
  float* out = ctx.scratch.allocate<float>(std::max<int64_t>(1, std::ssize(rows)) * width);
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(out + static_cast<int64_t>(i) * width, x + rows[i] * width,
                static_cast<size_t>(width) * sizeof(float));
  return out;
}

}  // namespace

Model::~Model() = default;

state::SnapshotIdentity Model::snapshot_identity() const {
  state::SnapshotIdentity identity;
  identity.model = spec_.arch;
  identity.weights = hash_;
  for (const LayerSpec& layer : spec_.layers) identity.mixers.push_back(layer.mixer);
  return identity;
}

int64_t Model::weight_bytes() const {
  return step_weight_bytes() + (spec_.tied ? 0 : embed_.bytes());
}

int64_t Model::step_weight_bytes() const {
  int64_t bytes = head_matrix().bytes();
  for (const Layer& layer : layers_)
    bytes += layer.mixer->weight_bytes() + layer.gate_up.bytes() + layer.down.bytes();
  return bytes;
}

double Model::prompt_token_ops(int64_t position) const {
  double ops = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    ops += design_.mixers[l]->cost(position).flops;
    ops +=
        6.0 * static_cast<double>(spec_.d_model) * static_cast<double>(spec_.layers[l].ffn.width);
  }
  return ops;
}

double Model::decode_token_bytes(int64_t position) const {
  auto bytes = static_cast<double>(step_weight_bytes());
  for (const auto& mixer : design_.mixers) {
    const sublayer::Cost cost = mixer->cost(position);
    bytes += cost.state_read_bytes + cost.state_write_bytes;
  }
  return bytes;
}

void Model::embed(backend::Context& ctx, std::span<const int32_t> tokens, float* x) const {
  const backend::ProfileScope part(ctx, "embedding");
  const int64_t width = spec_.d_model;
  ctx.pool.parallel_for(std::ssize(tokens), 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = x + t * width;
      embed_.dequantize_row(tokens[static_cast<size_t>(t)], row);
      if (spec_.embed_scale != 1.0f) {
        for (int64_t i = 0; i < width; ++i) row[i] *= spec_.embed_scale;
      }
    }
  });
}

void Model::feed_forward(backend::Context& ctx, int64_t index, int64_t tokens, float* x) const {
  backend::ArenaScope scope(ctx.scratch);
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const FfnSpec& spec = spec_.layers[static_cast<size_t>(index)].ffn;
  const int64_t width = spec_.d_model;
  float* normed = ctx.scratch.allocate<float>(tokens * width);
  float* gate_up = ctx.scratch.allocate<float>(tokens * 2 * spec.width);
  float* gated = ctx.scratch.allocate<float>(tokens * spec.width);
  norm_rows(ctx, x, tokens, width, layer.pre_ffn_norm, spec_.norm_eps, normed);
  ops::project(ctx, "ffn gate and up", normed, tokens, layer.gate_up, gate_up);
  {
    const backend::ProfileScope part(ctx, "ffn activation");
    ops::gated(ctx, {.gate_up = gate_up,
                     .tokens = tokens,
                     .width = spec.width,
                     .activation = spec.activation,
                     .out = gated});
  }
  ops::project(ctx, "ffn down", gated, tokens, layer.down, normed);
  if (!layer.post_ffn_norm.empty())
    norm_rows(ctx, normed, tokens, width, layer.post_ffn_norm, spec_.norm_eps, normed);
  add(ctx, normed, tokens * width, x);
}

float* Model::hidden(backend::Context& ctx, const state::StepBatch& step) const {
  const FlushDenormals flush;
  const state::BatchView batch = step.batch();
  const std::span<const int32_t> rows = step.rows();
  const int64_t width = spec_.d_model;
  int64_t count = batch.tokens;
  float* x = ctx.scratch.allocate<float>(count * width);
  float* mixed = ctx.scratch.allocate<float>(count * width);
  embed(ctx, step.tokens(), x);
  for (int64_t l = 0; l < std::ssize(layers_); ++l) {
    const Layer& layer = layers_[static_cast<size_t>(l)];
    {
      backend::ArenaScope scope(ctx.scratch);
      float* normed = ctx.scratch.allocate<float>(count * width);
      norm_rows(ctx, x, count, width, layer.pre_mixer_norm, spec_.norm_eps, normed);
      const backend::ProfileScope part(ctx, "mixer, the rest");
      layer.mixer->forward(ctx, batch, normed, step.state(l), mixed);
    }
    if (l + 1 == std::ssize(layers_)) {
      // Nobody reads the other rows any more.
      x = gather(ctx, x, width, rows);
      mixed = gather(ctx, mixed, width, rows);
      count = std::ssize(rows);
      if (count == 0) return x;
    }
    if (!layer.post_mixer_norm.empty())
      norm_rows(ctx, mixed, count, width, layer.post_mixer_norm, spec_.norm_eps, mixed);
    add(ctx, mixed, count * width, x);
    feed_forward(ctx, l, count, x);
  }
  return x;
}

void Model::head(backend::Context& ctx, float* x, int64_t rows, float* logits) const {
  const FlushDenormals flush;
  norm_rows(ctx, x, rows, spec_.d_model, final_norm_, spec_.norm_eps, x);
  ops::project(ctx, "output matrix", x, rows, head_matrix(), logits);
}

void Model::forward(backend::Context& ctx, const state::StepBatch& step, float* logits) const {
  backend::ArenaScope scope(ctx.scratch);
  float* x = hidden(ctx, step);
  if (!step.rows().empty()) head(ctx, x, std::ssize(step.rows()), logits);
}

void Model::forward(backend::Context& ctx, const state::StepBatch& step, int64_t block,
                    const LogitSink& sink) const {
  HEDDLE_CHECK(block > 0);
  backend::ArenaScope scope(ctx.scratch);
  float* x = hidden(ctx, step);
  const int64_t rows = std::ssize(step.rows());
  if (rows == 0) return;
  float* logits = ctx.scratch.allocate<float>(std::min(rows, block) * spec_.vocab_size);
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t count = std::min(block, rows - first);
    head(ctx, x + first * spec_.d_model, count, logits);
    sink(first, count, logits);
  }
}

}  // namespace heddle::model
