#include "engine/model_executor.h"

#include <algorithm>

namespace heddle::engine {

Result<std::span<RowOutput>> ModelExecutor::step(state::StepBatch& step,
                                                 std::span<const RowRequest> requests) {
  {
    backend::ArenaScope scope(scratch_);
    float* logits = scratch_.allocate<float>(std::ssize(step.rows()) * vocab_size());
    model_.forward(context_, step, logits);
    sample_rows(step, requests, logits);
  }
  for (int64_t i = 0; i < step.segments(); ++i)
    step.commit(i, accepted_path(step, i, requests, outputs_));
  return std::span(outputs_);
}

// logits [step.rows(), vocab]
void ModelExecutor::sample_rows(const state::StepBatch& step, std::span<const RowRequest> requests,
                                float* logits) {
  const int64_t vocab = vocab_size();
  outputs_.clear();
  outputs_.resize(requests.size());
  std::vector<ops::SampleRow> rows(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const RowRequest& request = requests[i];
    ops::SampleRow& row = rows[i];
    row.logits = logits + request.row * vocab;
    if (request.logits) outputs_[i].logits.assign(row.logits, row.logits + vocab);
    // Choosing changes the logits, which the next request may still want.
    if (i + 1 < requests.size() && requests[i + 1].row == request.row) {
      float* own = scratch_.allocate<float>(vocab);
      std::copy(row.logits, row.logits + vocab, own);
      row.logits = own;
    }
    row.params = request.sampling;
    row.seen = request.seen->seen();
    row.position =
        step.batch().positions[static_cast<size_t>(step.rows()[static_cast<size_t>(request.row)])] +
        1;
    row.given = request.given;
  }
  std::vector<Result<Sample>> samples = ops::sample(context_, rows, vocab);
  for (size_t i = 0; i < samples.size(); ++i) outputs_[i].sample = std::move(samples[i]);
}

}  // namespace heddle::engine
