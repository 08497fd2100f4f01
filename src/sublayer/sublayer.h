#pragma once
// A sub-layer x -> y: a mixer (projections, convolution, gates, norms, sequence kernel, output
// projection) or a feed-forward, which is one without state parts. Kind (a name and a factory) ->
// design (sizes, no weights: what loader, planner and simulator need) -> sub-layer.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/context.h"
#include "backend/profile.h"
#include "base/result.h"
#include "ops/matmul/matmul.h"
#include "state/batch.h"
#include "state/state_part.h"
#include "sublayer/params.h"
#include "sublayer/precision.h"
#include "sublayer/weight.h"
#include "tensor/rows.h"

namespace heddle::sublayer {

// Work of one token at a position beside reading the weights, whose bytes follow from their types.
struct Cost {
  double flops = 0;  // multiply and add counted as two
  double state_read_bytes = 0;
  double state_write_bytes = 0;
};

class SubLayer {
 public:
  virtual ~SubLayer() = default;
  // x [T, D], already normalised; y [T, D] overwritten; both float32, where the context's kernels
  // run, and apart. Without state parts a row depends on itself alone, and of the batch only
  // `tokens` counts. With them it writes the records of every row, folds where they complete a
  // block (PartView::next_summary, draft_summary), and a row depends on its sequence's earlier
  // records and ancestors only.
  virtual void forward(backend::Context& ctx, const state::BatchView& batch, tensor::ConstRows x,
                       const state::StateView& state, tensor::Rows y) const = 0;
  virtual int64_t weight_bytes() const = 0;  // memory held
};

class Design {
 public:
  virtual ~Design() = default;
  virtual std::vector<state::StatePart> state_parts() const = 0;
  virtual std::vector<WeightSpec> weights() const = 0;
  virtual Cost cost(int64_t position) const = 0;
  // Weights lie in options.memory, which must outlive the sub-layer.
  virtual Result<std::unique_ptr<SubLayer>> bind(ThreadPool& pool, WeightSource& source,
                                                 const ops::PackOptions& options) const = 0;
};

// What contract tests, goldens and benches run.
struct Case {
  std::string name;
  Params params;
  StatePrecision precision = {};
  DType weights = DType::f32;  // of the matrices; q8_0, q4_0: products in int8
  // Instead of what the WeightSpecs say, by name: gates at their extremes.
  std::map<std::string, Init, std::less<>> init = {};
  bool bench = false;  // the shape of a real layer: for benches alone
};

// The input and output of a kernel for some rows.
class ProbeRun {
 public:
  virtual ~ProbeRun() = default;
  virtual void run(backend::Context& ctx, const state::BatchView& batch,
                   const state::StateView& state) = 0;
  virtual std::span<const float> output() const = 0;
  virtual std::vector<float> naive() const = 0;  // the output for a sequence from its start
};
// A kernel inside a kind that `heddle bench kernels` measures by itself, beside whole sub-layers.
struct Probe {
  std::string kernel;  // "delta rule"
  std::string shape;
  std::vector<state::StatePart> parts;  // what it reads and writes of a sequence
  int64_t depth = 0;                    // tokens before the step
  int64_t tokens = 1;                   // of the step
  backend::Work work;                   // of one call
  std::function<std::unique_ptr<ProbeRun>(int64_t tokens)> make;
};

struct NaiveRun;       // sublayer/naive.h
class Trainable;       // of train/
class ParameterStore;  // of train/

// All that the rest of the program knows of a kind. Last members may be null.
struct Kind {
  std::string_view name;
  // Call through make_design().
  Result<std::unique_ptr<Design>> (*design)(const Params& params, const StatePrecision& precision);
  std::vector<Case> (*cases)();
  // The outputs [T, D] as anyone would write them in float32: the kernels may err twice as much
  // (docs/numerics.md).
  std::vector<float> (*naive)(const NaiveRun& run);
  std::vector<Probe> (*probes)() = nullptr;
  Result<std::unique_ptr<Trainable>> (*train)(const Design&, ParameterStore&) = nullptr;
};

// Refuses parameters that the kind never asked for, with those that it knows.
Result<std::unique_ptr<Design>> make_design(const Kind& kind, const Params& params,
                                            const StatePrecision& precision);

}  // namespace heddle::sublayer
