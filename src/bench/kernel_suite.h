#pragma once
// What the cases of `heddle bench kernels` share: whether a case is wanted, its measurement, its
// line.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/machine_limits.h"
#include "backend/profile.h"
#include "base/rng.h"
#include "bench/kernels.h"
#include "state/sequence_state.h"

namespace heddle::bench {

struct KernelCase {
  std::string kernel;  // "matmul"
  std::string shape;   // "q4_0 1024x9216"
  int64_t tokens = 1;  // rows of one call
  backend::Work work;  // of one call
  // Error over budget on a small problem of the same kind; negative: not compared here.
  std::function<double(backend::Context&)> accuracy;
  // The i-th call. Calls with different i should use different memory where one would find it in
  // the caches and a model would not.
  std::function<void(backend::Context&, int64_t i)> call;
};

class KernelSuite {
 public:
  KernelSuite(const KernelOptions& options, const Output& output, ThreadPool& pool,
              const backend::MachineLimits& machine)
      : options_(options), output_(output), machine_(machine), context_{pool, scratch_} {}

  // False: filtered out, or too much arithmetic for the instruction set in use.
  bool wants(const std::string& kernel, const std::string& shape, const backend::Work& work) const;
  void measure(const KernelCase& c);
  backend::Context& context() { return context_; }

 private:
  const KernelOptions& options_;
  const Output& output_;
  const backend::MachineLimits& machine_;
  backend::Arena scratch_;
  backend::Context context_;
};

std::vector<float> random_values(int64_t count, uint64_t seed, float scale = 1);

// got against exact over the budget that naive sets.
double error_over_budget(std::span<const float> got, std::span<const float> naive,
                         std::span<const float> exact);

// So many problems of `bytes` each that together they leave the caches, within reason.
int64_t copies_beyond_caches(double bytes);

// Sequences whose parts hold random records up to a depth, with a step of `tokens` begun: what
// kernels over state read and write. Calling a kernel again does the same work.
class Sequences {
 public:
  Sequences(const std::vector<state::StatePart>& parts, int64_t count, int64_t depth,
            int64_t tokens);
  int64_t count() const { return static_cast<int64_t>(sequences_.size()); }
  const state::BatchView& batch() const { return batch_; }  // one segment, as every sequence's is
  state::StateView view(int64_t i) const;                   // of sequence i

 private:
  state::StateLayout layout_;
  state::BlockPool pool_;
  std::vector<std::unique_ptr<state::SequenceState>> sequences_;
  std::vector<state::PartView> views_;  // [sequences][parts]
  state::Segment segment_;
  std::vector<int32_t> positions_;
  state::BatchView batch_;
};

// In this order.
void matmul_kernels(KernelSuite& suite);
void attention_kernels(KernelSuite& suite);
void convolution_kernels(KernelSuite& suite);
void sublayer_kernels(KernelSuite& suite);  // of every kind
void elementwise_kernels(KernelSuite& suite);
void sample_kernels(KernelSuite& suite);
void pack_kernels(KernelSuite& suite);
void bookkeeping_kernels(KernelSuite& suite);

}  // namespace heddle::bench
