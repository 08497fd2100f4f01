#pragma once
// What runs the model under the engine. The engine needs no more than this, so that it can be
// tested and simulated without one.
#include <cstdint>
#include <span>

#include "state/batch.h"
#include "state/sequence_state.h"

namespace heddle::engine {

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const state::StateLayout& layout() const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual int64_t context_length() const = 0;
  // Runs one step. tokens [T]; sequences [segments], begin_step() already called. logits
  // [logit_rows.size(), vocab].
  virtual void forward(const state::BatchView& batch, std::span<const int32_t> tokens,
                       std::span<state::SequenceState* const> sequences,
                       std::span<const int32_t> logit_rows, float* logits) = 0;
};

}  // namespace heddle::engine
