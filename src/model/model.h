#pragma once
// A model with its weights, ready to run: embedding, layers of sub-layers, final norm and output
// matrix. Immutable and without sequence state, so any number of engines may share one.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/context.h"
#include "backend/weight_memory.h"
#include "base/hash.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/design.h"
#include "model/files/checkpoint.h"
#include "model/spec.h"
#include "ops/matmul/matmul.h"
#include "state/snapshot_file.h"
#include "state/state_part.h"
#include "state/step.h"
#include "sublayer/sublayer.h"
#include "tensor/rows.h"
#include "tensor/vector.h"

namespace heddle::model {

class Weights;

struct LoadOptions {
  bool full_precision = false;  // weights as float32 values, multiplied in float32
  DType quantize = DType::f32;  // q8_0 or q4_0: requantise float matrices; f32: as stored
  std::string kv_dtype;         // "bf16" or "f32"; empty: f32 in full precision, else bf16
  std::function<void(int64_t layers_done, int64_t layers)> progress;  // optional
};

// What options ask for; fails on a kv_dtype that there is not.
Result<sublayer::StatePrecision> state_precision(const LoadOptions& options);

class Model {
 public:
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // From a GGUF file or a folder (see Checkpoint). The files are not needed afterwards.
  static Result<std::unique_ptr<Model>> load(const std::string& path, const LoadOptions& options,
                                             ThreadPool& pool);
  static Result<std::unique_ptr<Model>> load(const Checkpoint& checkpoint,
                                             const LoadOptions& options, ThreadPool& pool);
  // Published shapes, "NAME" or "NAME:TYPE" (see presets.h), with random weights.
  static Result<std::unique_ptr<Model>> preset(const std::string& preset,
                                               const LoadOptions& options, ThreadPool& pool);
  static Result<std::unique_ptr<Model>> from_weights(const ModelSpec& spec, Weights& weights,
                                                     const LoadOptions& options, ThreadPool& pool);

  const ModelSpec& spec() const { return spec_; }
  const state::StateLayout& layout() const { return design_.layout; }
  const ModelDesign& design() const { return design_; }
  int64_t weight_bytes() const;  // memory held
  // What one decode step reads of the weights: all but the rows of an untied embedding.
  int64_t step_weight_bytes() const;
  // Whether most of the matrices multiply in int8.
  bool quantized() const { return quantized_; }
  // Arithmetic of one prompt token at a position, but for the output matrix; multiply and add count
  // as two.
  double prompt_token_ops(int64_t position) const;
  // Bytes that decoding one token at a position reads and writes: weights and state.
  double decode_token_bytes(int64_t position) const;
  // Identity of weights and of everything in LoadOptions that changes the state's values.
  const Hash128& weight_hash() const { return hash_; }
  // What a snapshot of this model is saved with, and compared with when it is loaded.
  state::SnapshotIdentity snapshot_identity() const;

  // One step (token ids below vocab_size). logits [step.rows(), vocab_size].
  void forward(backend::Context& ctx, const state::StepBatch& step, float* logits) const;

  // The same with the logits handed out `block` rows at a time, for long prompts of which every
  // row is wanted. sink(first, count, logits): rows first .. first + count of step.rows().
  using LogitSink = std::function<void(int64_t first, int64_t count, const float* logits)>;
  void forward(backend::Context& ctx, const state::StepBatch& step, int64_t block,
               const LogitSink& sink) const;

 private:
  struct Bound {
    std::unique_ptr<sublayer::SubLayer> body;
    tensor::Vector pre_norm, post_norm;  // [D] or empty
  };
  Model() = default;
  // Hidden rows of step.rows() after the last layer: [rows, D] in scratch memory.
  tensor::Rows hidden(backend::Context& ctx, const state::StepBatch& step) const;
  void norm(backend::Context& ctx, tensor::ConstRows x, const tensor::Vector& weight,
            tensor::Rows y) const;
  // y [(last - first) T, D] of the sub-layers [first, last), which all read x [T, D], one behind
  // the other.
  void run(backend::Context& ctx, const state::BatchView& batch, const state::StepBatch& step,
           size_t first, size_t last, tensor::ConstRows x, tensor::Rows y) const;
  void head(backend::Context& ctx, tensor::Rows x, float* logits) const;
  const ops::PackedMatrix& head_matrix() const { return spec_.tied ? embed_ : head_; }

  ModelSpec spec_;
  ModelDesign design_;  // points into spec_
  Hash128 hash_;
  std::unique_ptr<backend::WeightMemory> memory_;  // of the weights below
  bool quantized_ = false;
  ops::PackedMatrix embed_;  // [V, D]
  ops::PackedMatrix head_;   // [V, D]; empty when tied
  tensor::Vector final_norm_;
  std::vector<Bound> sub_;  // as design_.sub
};

}  // namespace heddle::model
