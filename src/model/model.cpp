#include "model/model.h"

#include <algorithm>

#include "backend/profile.h"
#include "base/check.h"
#include "base/denormals.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/norm.h"
#include "ops/rows/rows.h"
#include "ops/work.h"

namespace heddle::model {
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

void Model::norm(backend::Context& ctx, tensor::ConstRows x, const tensor::Vector& weight,
                 tensor::Rows y) const {
  const backend::ProfileScope part(ctx, "norm");
  ops::rms_norm(ctx, {.x = x.f32(),
                      .x_stride = x.stride,
                      .rows = x.rows,
                      .width = x.width,
                      .weight = weight.data(),
                      .eps = spec_.norm_eps,
                      .y = y.f32(),
                      .y_stride = y.stride});
}

void Model::run(backend::Context& ctx, const state::BatchView& batch, const state::StepBatch& step,
                size_t first, size_t last, tensor::ConstRows x, tensor::Rows y) const {
  const backend::ArenaScope scope(ctx.scratch);
  const tensor::Rows normed = tensor::scratch_rows(ctx.scratch, x.rows, x.width);
  for (size_t i = first; i < last; ++i) {
    const SubLayerDesign& design = design_.sub[i];
    const std::string& name = design.spec->pre_norm;
    if (!name.empty() && (i == first || name != design_.sub[i - 1].spec->pre_norm))
      norm(ctx, x, sub_[i].pre_norm, normed);
    const backend::ProfileScope part(ctx, "sub-layers, the rest");
    sub_[i].body->forward(ctx, batch, name.empty() ? x : normed, step.parts_from(design.first_part),
                          y.part(static_cast<int64_t>(i - first) * x.rows, x.rows));
  }
}

tensor::Rows Model::hidden(backend::Context& ctx, const state::StepBatch& step) const {
  const FlushDenormals flush;
  state::BatchView batch = step.batch();
  const std::span<const int32_t> wanted = step.rows();
  const int64_t width = spec_.d_model;
  tensor::Rows x = tensor::scratch_rows(ctx.scratch, batch.tokens, width);
  {
    const backend::ProfileScope part(ctx, "embedding");
    ops::embed(ctx, {&embed_, step.tokens(), spec_.embed_scale, x});
  }
  const auto largest = static_cast<int64_t>(design_.largest_group());
  tensor::Rows y = tensor::scratch_rows(ctx.scratch, largest * batch.tokens, width);
  // Of the rows that nobody wants, no sub-layer needs more than the records.
  const size_t stateful = design_.stateful_end();
  for (size_t first = 0; first < sub_.size();) {
    const size_t last = design_.group_end(first);
    run(ctx, batch, step, first, last, x, y);
    if (first < stateful && last >= stateful) {
      const int64_t all = x.rows, kept = std::ssize(wanted);
      const tensor::Rows from_x = x, from_y = y;
      x = tensor::scratch_rows(ctx.scratch, kept, width);
      y = tensor::scratch_rows(ctx.scratch, largest * kept, width);
      ops::gather(ctx, from_x, wanted, x);
      for (int64_t i = 0; i < static_cast<int64_t>(last - first); ++i)
        ops::gather(ctx, from_y.part(i * all, all), wanted, y.part(i * kept, kept));
      batch = {.tokens = kept};
      if (kept == 0) return x;
    }
    for (int64_t i = 0; first < last; ++first, ++i) {
      const tensor::Rows part = y.part(i * x.rows, x.rows);
      const SubLayerSpec& spec = *design_.sub[first].spec;
      if (!spec.post_norm.empty()) norm(ctx, part, sub_[first].post_norm, part);
      const backend::ProfileScope scope(ctx, "residual");
      ops::add(ctx, {part, x, spec.residual_scale, spec.input_scale});
    }
  }
  return x;
}

// logits [x.rows, V]; x is normalised in place.
void Model::head(backend::Context& ctx, tensor::Rows x, float* logits) const {
  const FlushDenormals flush;
  norm(ctx, x, final_norm_, x);
  ops::project(ctx, "output matrix", x, head_matrix(), {logits, x.rows, spec_.vocab_size});
}

void Model::forward(backend::Context& ctx, const state::StepBatch& step, float* logits) const {
  backend::ArenaScope scope(ctx.scratch);
  const tensor::Rows x = hidden(ctx, step);
  if (x.rows > 0) head(ctx, x, logits);
}

void Model::forward(backend::Context& ctx, const state::StepBatch& step, int64_t block,
                    const LogitSink& sink) const {
  HEDDLE_CHECK(block > 0);
  backend::ArenaScope scope(ctx.scratch);
  const tensor::Rows x = hidden(ctx, step);
  const int64_t rows = x.rows;
  if (rows == 0) return;
  float* logits = ctx.scratch.allocate<float>(std::min(rows, block) * spec_.vocab_size);
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t count = std::min(block, rows - first);
    head(ctx, x.part(first, count), logits);
    sink(first, count, logits);
  }
}

}  // namespace heddle::model
