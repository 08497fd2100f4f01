#pragma once
// Every kernel against its reference (error over budget, the budget being twice the error of the
// naive loop: ops/naive.h) and against its limit on this machine (bytes, operations).
#include <string>

#include "bench/output.h"

namespace heddle::bench {

struct KernelOptions {
  int threads = 0;        // 0: all CPUs of this process
  std::string only;       // cases whose "KERNEL SHAPE" holds this text
  double seconds = 0.06;  // of measured runs per case, at least three runs
};

void run_kernels(const KernelOptions& options, const Output& output);

}  // namespace heddle::bench
