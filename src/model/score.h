#pragma once
// One text through a model without an engine, in any of the ways that the state contract says are
// equal: what `heddle logits` and `heddle perplexity` do, and what tests compare.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/context.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/model.h"

namespace heddle::model {

struct ScoreOptions {
  int64_t chunk = 512;     // tokens of a step
  int64_t batch_with = 0;  // other sequences of random tokens in the same steps
  // At this position: save a snapshot to `snapshot_file`, forget everything, load it, go on. -1:
  // no.
  int64_t restore_at = -1;
  std::string snapshot_file;
  // After this position: random drafts, first a chain and then a tree, all rolled back. -1: no.
  int64_t draft_at = -1;
  uint64_t seed = 1;  // of random tokens
  backend::KernelSet kernels = backend::KernelSet::cpu;
};

// Calls sink(first, count, logits) for consecutive rows of the text. ids [T], all below vocab_size.
Status run_logits(const Model& model, ThreadPool& pool, std::span<const int32_t> ids,
                  const ScoreOptions& options, const Model::LogitSink& sink);

// Negative log-likelihood in nats of ids[i + 1] after ids[0 .. i], [T - 1].
Result<std::vector<double>> token_nll(const Model& model, ThreadPool& pool,
                                      std::span<const int32_t> ids, const ScoreOptions& options);

}  // namespace heddle::model
