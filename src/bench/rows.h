#pragma once
// What a step of several sequences costs against a step of one: weights are read once for all rows.
#include <cstdint>
#include <string>
#include <vector>

#include "backend/context.h"
#include "bench/output.h"
#include "model/model.h"

namespace heddle::bench {

struct RowOptions {
  std::vector<int64_t> rows = {1, 2, 4, 8, 16};  // sequences of a step, one token each
  std::vector<int64_t> depths = {0};             // tokens read before
  std::vector<int> threads;                      // empty: all CPUs of this process
  int repetitions = 9;
  backend::KernelSet kernels = backend::KernelSet::cpu;
};

// Seconds of a step with the logits of every row, without sampling. Every repetition measures one
// row and then each number of rows, so that a ratio is of times that lie side by side.
void run_rows(const model::Model& model, const std::string& name, const RowOptions& options,
              const Output& output);

}  // namespace heddle::bench
