#pragma once
// A sub-layer x -> y: a mixer (projections, convolution, gates, norms, sequence kernel, output
// projection) or a feed-forward, which is one without state parts. Kind (a name and a factory) ->
// design (sizes, no weights: what loader, planner and simulator need) -> sub-layer.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/context.h"
#include "base/result.h"
#include "ops/matmul/matmul.h"
#include "state/batch.h"
#include "state/state_part.h"
#include "sublayer/params.h"
#include "sublayer/weight.h"

namespace heddle::sublayer {

// Work of one token at a position, for planner, simulator and benches. weights are those of the
// sub-layer's matrices.
struct Cost {
  double flops = 0;         // multiply and add counted as two
  double weight_bytes = 0;  // read once a step, however many tokens
  double state_read_bytes = 0;
  double state_write_bytes = 0;
};

class SubLayer {
 public:
  virtual ~SubLayer() = default;
  // x [T, D] float32, already normalised; y [T, D] overwritten. Without state parts a row depends
  // on itself alone, and of the batch only `tokens` counts. With them it writes the records of
  // every row, folds where they complete a block (PartView::next_summary, draft_summary), and a row
  // depends on its sequence's earlier records and ancestors only.
  virtual void forward(backend::Context& ctx, const state::BatchView& batch, const float* x,
                       const state::StateView& state, float* y) const = 0;
  virtual int64_t weight_bytes() const = 0;  // memory held
};

class Design {
 public:
  virtual ~Design() = default;
  virtual std::vector<state::StatePart> state_parts() const = 0;
  virtual std::vector<WeightSpec> weights() const = 0;
  virtual Cost cost(int64_t position) const = 0;
  virtual Result<std::unique_ptr<SubLayer>> bind(ThreadPool& pool, WeightSource& source,
                                                 const ops::PackOptions& options) const = 0;
};

// A size that contract tests, goldens and benches run.
struct Case {
  std::string name;
  Params params;
};

// kv_dtype ("bf16" or "f32") is a parameter that the engine sets on every sub-layer; those without
// K/V ignore it.
struct Kind {
  std::string_view name;
  Result<std::unique_ptr<Design>> (*design)(const Params& params);
  std::vector<Case> (*cases)();
};

}  // namespace heddle::sublayer
