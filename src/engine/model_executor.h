#pragma once
// The executor of a real model on this machine.
#include <vector>

#include "backend/context.h"
#include "engine/executor.h"
#include "model/model.h"

namespace heddle::engine {

class ModelExecutor : public Executor {
 public:
  // Model and pool must outlive it.
  ModelExecutor(const model::Model& model, ThreadPool& pool, backend::KernelSet kernels)
      : model_(model), context_{pool, scratch_, kernels} {}

  const state::StateLayout& layout() const override { return model_.layout(); }
  int64_t vocab_size() const override { return model_.spec().vocab_size; }
  int64_t context_length() const override { return model_.spec().context_length; }
  Result<std::span<RowOutput>> step(state::StepBatch& step,
                                    std::span<const RowRequest> requests) override;

 private:
  void sample_rows(const state::StepBatch& step, std::span<const RowRequest> requests,
                   float* logits);

  const model::Model& model_;
  backend::Arena scratch_;
  backend::Context context_;
  std::vector<RowOutput> outputs_;
};

}  // namespace heddle::engine
