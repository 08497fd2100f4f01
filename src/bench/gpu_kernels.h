#pragma once
// Every kernel of a GPU against its limit there. Checks are the tests with the label gpu.
#include <string>

#include "base/result.h"
#include "bench/kernels.h"

namespace heddle::bench {

// `device`: "cuda:0". An error where it cannot be opened, or one of its calls fails.
Status run_gpu_kernels(const std::string& device, const KernelOptions& options,
                       const Output& output);

}  // namespace heddle::bench
