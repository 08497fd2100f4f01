#pragma once
// Where a model's weights come from while it is built: a checkpoint, or a generator of random ones.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/files/checkpoint.h"
#include "model/model.h"
#include "model/spec.h"
#include "ops/matmul/matmul.h"
#include "sublayer/weight.h"

namespace heddle::model {

// Dimensions of size 1 in a file don't count when shapes are compared.
class Weights {
 public:
  virtual ~Weights() = default;
  // Valid until release().
  virtual Result<ops::MatrixSource> matrix(Owner owner, const sublayer::WeightSpec& weight) = 0;
  virtual Result<std::vector<float>> values(Owner owner, const sublayer::WeightSpec& weight) = 0;
  // What matrix() and values() gave so far is no longer needed.
  virtual void release() = 0;
  virtual Hash128 hash() const = 0;
};

// `checkpoint` must outlive the result.
std::unique_ptr<Weights> checkpoint_weights(const Checkpoint& checkpoint);

// Whether every weight of the design is in the files with the right shape and type; reads no
// weights.
Status check_weights(const Checkpoint& checkpoint, const ModelDesign& design);

// Bytes of the design's weights as load() will hold them: what else the files have, a vision tower
// or a predictor, is not read.
Result<int64_t> weight_bytes(const Checkpoint& checkpoint, const ModelDesign& design,
                             const LoadOptions& options);

// Random weights of sensible sizes. Matrices have the type `dtype` (bf16, q8_0, q4_0; rows that are
// no multiple of 32 stay bf16); embedding and head take q6_k or q8_0 when the others are q4_0, as
// quantised files do.
std::unique_ptr<Weights> random_weights(const ModelSpec& spec, DType dtype, uint64_t seed,
                                        ThreadPool& pool);

// The scale of the embeddings of a model whose embedding matrix is stored as `stored`.
float loaded_embed_scale(const ModelSpec& spec, DType stored, const LoadOptions& options);

}  // namespace heddle::model
