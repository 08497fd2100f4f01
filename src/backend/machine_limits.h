#pragma once
// What this machine can do at most, measured: the denominators of every "percent of the limit" that
// Heddle prints.
#include "base/thread_pool.h"

namespace heddle::backend {

struct MachineLimits {
  double read_bytes_per_s = 0;  // streaming reads of memory far larger than the caches, all threads
  double fp32_flops = 0;        // fused multiply-adds on registers, two operations each
  double int8_ops = 0;  // 8-bit dot products on registers (VNNI, else multiply-add pairs), two
                        // operations a product
};

// Best of `rounds` measurements of a few hundredths of a second each; allocates `read_bytes` for a
// moment.
MachineLimits measure_limits(ThreadPool& pool, int rounds = 5,
                             int64_t read_bytes = int64_t{512} << 20);

}  // namespace heddle::backend
