#pragma once
// How much memory this process may use: what the machine has, and what its control groups (v1 or
// v2, as containers set them) allow.
#include <cstdint>
#include <string>

namespace heddle::backend {

struct MachineMemory {
  int64_t total = 0;      // of the machine, or the smallest limit of its groups
  int64_t available = 0;  // what can still be taken without pushing anything out
  bool limited = false;   // a control group is the limit
};

// `root` stands before every path: for tests. Zeros where nothing can be read.
MachineMemory machine_memory(const std::string& root = "");

}  // namespace heddle::backend
