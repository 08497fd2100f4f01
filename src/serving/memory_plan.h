#pragma once
// Where the memory of a server goes, before anything is loaded: weights, working memory and state.
#include <cstdint>
#include <string>
#include <vector>

#include "backend/machine_memory.h"
#include "engine/engine.h"
#include "model/files/checkpoint.h"
#include "model/model.h"

namespace heddle::serving {

struct MemoryPlan {
  backend::MachineMemory machine;
  int64_t weight_bytes = 0;  // as they will be held; an estimate, within some percent
  int64_t work_bytes = 0;    // activations, logits, threads
  int64_t state_bytes = 0;
  int64_t context_length = 0;
  int64_t step_tokens = 0;
  engine::BytesByGrowth sequence_bytes{};  // of one sequence at the context length
  int64_t short_sequence_bytes = 0;        // of one of kShortTokens

  static constexpr int64_t kShortTokens = 1024;
};

// state_bytes 0: up to 4 GiB, half of what the rest leaves. Fails, with the numbers, if it does not
// fit what the machine and its control groups leave.
Result<MemoryPlan> plan_memory(const model::Checkpoint& checkpoint, const model::LoadOptions& load,
                               const engine::SchedulerOptions& scheduler, int64_t state_bytes,
                               const backend::MachineMemory& machine);

// Lines for people.
std::vector<std::string> plan_lines(const MemoryPlan& plan);

}  // namespace heddle::serving
