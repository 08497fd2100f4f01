#pragma once
// Speed of prompt reading and decoding at depths, beside the machine's limits measured in the same
// run, and where the time of a step goes.
#include <cstdint>
#include <string>
#include <vector>

#include "backend/context.h"
#include "bench/output.h"
#include "model/model.h"
#include "ops/sample/sample.h"

namespace heddle::bench {

struct StepOptions {
  std::vector<int64_t> prompts = {512};  // tokens
  std::vector<int64_t> outputs = {128};
  std::vector<int64_t> depths = {0};  // tokens read before the test
  std::vector<int> threads;           // empty: all CPUs of this process
  int repetitions = 5;
  int64_t chunk = 512;
  bool profile = false;  // after each test, as many runs again with the parts timed
  backend::KernelSet kernels = backend::KernelSet::cpu;
  ops::SamplingParams sampling;  // of the tokens of each step: the server's defaults
};

// The limits: a prompt token's operations over the int8 (quantised weights) or fp32 peak; a decoded
// token's bytes (weights once, state) over the read bandwidth.
void run_steps(const model::Model& model, const std::string& name, const StepOptions& options,
               const Output& output);

}  // namespace heddle::bench
