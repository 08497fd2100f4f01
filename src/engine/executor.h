#pragma once
// What runs the model under the engine: a step in, tokens out. The engine needs no more than this,
// so that it can be tested and simulated without a model, and logits stay where they are computed.
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/sampling.h"
#include "state/step.h"

namespace heddle::engine {

// What is wanted of a row of a step: the token behind it.
struct RowRequest {
  int64_t row = 0;                           // among StepBatch::rows(); several may ask for one
  const SamplingParams* sampling = nullptr;  // outlives the step
  const TokenCounts* seen = nullptr;         // for the penalties
  int32_t given = -1;                        // >= 0: this token is scored, none is chosen
  bool logits = false;                       // RowOutput::logits is wanted
};

struct RowOutput {
  Result<Sample> sample = Sample();  // an error: of this row alone, whose logits are no numbers
  std::vector<float> logits;         // [vocab], of the model itself
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const state::StateLayout& layout() const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual int64_t context_length() const = 0;
  // Runs the step, chooses or scores a token for each request (in order of their rows), and commits
  // every segment with those of its drafts that were chosen (accepted_path). The outputs, one a
  // request, are valid until the next step. On an error, or std::bad_alloc, the sequences are good
  // for nothing but to be dropped.
  virtual Result<std::span<RowOutput>> step(state::StepBatch& step,
                                            std::span<const RowRequest> requests) = 0;
};

// The drafts of a segment that follow the tokens chosen at its rows: each is the token chosen at
// the row that it follows. A segment whose last committed row nobody asked for keeps none.
std::vector<int32_t> accepted_path(const state::StepBatch& step, int64_t segment,
                                   std::span<const RowRequest> requests,
                                   std::span<const RowOutput> outputs);

}  // namespace heddle::engine
