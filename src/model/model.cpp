#include "model/model.h"

#include <algorithm>
#include <cstring>

#include "backend/profile.h"
#include "base/check.h"
#include "base/denormals.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/norm.h"
#include "ops/work.h"

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

// out [rows, width]
void gather(const float* x, int64_t width, std::span<const int32_t> rows, float* out) {
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(out + static_cast<int64_t>(i) * width, x + rows[i] * width,
                static_cast<size_t>(width) * sizeof(float));
}

}  // namespace

Model::~Model() = default;

state::SnapshotIdentity Model::snapshot_identity() const {
  state::SnapshotIdentity identity;
  identity.model = spec_.arch;
  identity.weights = hash_;
  identity.mixers.resize(spec_.layers.size());  // of each layer, what keeps state
  for (const SubLayerDesign& sub : design_.sub) {
    std::string& name = identity.mixers[static_cast<size_t>(sub.owner.layer)];
    if (sub.parts > 0) name += (name.empty() ? "" : "+") + sub.spec->kind;
  }
  return identity;
}

int64_t Model::weight_bytes() const {
  return step_weight_bytes() + (spec_.tied ? 0 : embed_.bytes());
}

int64_t Model::step_weight_bytes() const {
  int64_t bytes = head_matrix().bytes();
  for (const Bound& sub : sub_) bytes += sub.body->weight_bytes();
  return bytes;
}

double Model::prompt_token_ops(int64_t position) const {
  double ops = 0;
  for (const SubLayerDesign& sub : design_.sub) ops += sub.design->cost(position).flops;
  return ops;
}

double Model::decode_token_bytes(int64_t position) const {
  auto bytes = static_cast<double>(step_weight_bytes());
  for (const SubLayerDesign& sub : design_.sub) {
    const sublayer::Cost cost = sub.design->cost(position);
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

void Model::run(backend::Context& ctx, const state::BatchView& batch, const state::StepBatch& step,
                size_t first, size_t last, const float* x, float* y) const {
  const backend::ArenaScope scope(ctx.scratch);
  const int64_t width = spec_.d_model;
  float* normed = ctx.scratch.allocate<float>(batch.tokens * width);
  for (size_t i = first; i < last; ++i, y += batch.tokens * width) {
    const SubLayerDesign& design = design_.sub[i];
    const std::string& norm = design.spec->pre_norm;
    if (!norm.empty() && (i == first || norm != design_.sub[i - 1].spec->pre_norm))
      norm_rows(ctx, x, batch.tokens, width, sub_[i].pre_norm, spec_.norm_eps, normed);
    const backend::ProfileScope part(ctx, "sub-layers, the rest");
    sub_[i].body->forward(ctx, batch, norm.empty() ? x : normed, step.parts_from(design.first_part),
                          y);
  }
}

float* Model::hidden(backend::Context& ctx, const state::StepBatch& step) const {
  const FlushDenormals flush;
  const state::BatchView batch = step.batch();
  const std::span<const int32_t> rows = step.rows();
  const int64_t width = spec_.d_model;
  float* x = ctx.scratch.allocate<float>(batch.tokens * width);
  embed(ctx, step.tokens(), x);
  const auto largest = static_cast<int64_t>(design_.largest_group());
  float* y = ctx.scratch.allocate<float>(largest * batch.tokens * width);
  state::BatchView view = batch;
  // Of the rows that nobody wants, no sub-layer needs more than the records.
  const size_t stateful = design_.stateful_end();
  for (size_t first = 0; first < sub_.size();) {
    const size_t last = design_.group_end(first);
    run(ctx, view, step, first, last, x, y);
    if (first < stateful && last >= stateful) {
      const int64_t all = view.tokens, kept = std::ssize(rows);
      const float *from_x = x, *from_y = y;
      x = ctx.scratch.allocate<float>(std::max<int64_t>(1, kept) * width);
      y = ctx.scratch.allocate<float>(std::max<int64_t>(1, kept) * width * largest);
      gather(from_x, width, rows, x);
      for (int64_t i = 0; i < static_cast<int64_t>(last - first); ++i)
        gather(from_y + i * all * width, width, rows, y + i * kept * width);
      view = {.tokens = kept};
      if (kept == 0) return x;
    }
    for (float* part = y; first < last; ++first, part += view.tokens * width) {
      const SubLayerSpec& spec = *design_.sub[first].spec;
      if (!spec.post_norm.empty())
        norm_rows(ctx, part, view.tokens, width, sub_[first].post_norm, spec_.norm_eps, part);
      const backend::ProfileScope scope(ctx, "residual");
      ops::add(ctx, {part, view.tokens * width, x, spec.residual_scale, spec.input_scale});
    }
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
