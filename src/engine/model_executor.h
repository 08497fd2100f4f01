#pragma once
// The executor of a real model on this machine.
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
  void forward(const state::StepBatch& step, float* logits) override {
    model_.forward(context_, step, logits);
  }

 private:
  const model::Model& model_;
  backend::Arena scratch_;
  backend::Context context_;
};

}  // namespace heddle::engine
