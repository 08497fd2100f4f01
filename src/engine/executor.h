#pragma once
// What runs the model under the engine. The engine needs no more than this, so that it can be
// tested and simulated without one.
#include <cstdint>

#include "state/step.h"

namespace heddle::engine {

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const state::StateLayout& layout() const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual int64_t context_length() const = 0;
  // Runs one step. logits [step.rows(), vocab].
  virtual void forward(const state::StepBatch& step, float* logits) = 0;
};

}  // namespace heddle::engine
