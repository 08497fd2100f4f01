#include "serving/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "model/weights.h"

namespace heddle::serving {
namespace {

constexpr int64_t kDefaultState = int64_t{4} << 30;
constexpr int64_t kLeastState = int64_t{16} << 20;
constexpr int64_t kFixedWork = int64_t{64} << 20;  // tokenizer, threads, connections

int64_t total(const engine::BytesByGrowth& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

std::string mib(int64_t bytes) { return fmt::format("{} MiB", (bytes + (1 << 20) - 1) >> 20); }

}  // namespace

Result<MemoryPlan> plan_memory(const model::Checkpoint& checkpoint, const model::LoadOptions& load,
                               const engine::SchedulerOptions& scheduler, int64_t state_bytes,
                               const backend::MachineMemory& machine) {
  const model::ModelSpec& spec = checkpoint.spec();
  HEDDLE_TRY(const auto precision, model::state_precision(load));
  HEDDLE_TRY(const auto design, model::make_design(spec, precision));
  MemoryPlan plan;
  plan.machine = machine;
  plan.context_length = spec.context_length;
  plan.step_tokens = scheduler.step_tokens;
  HEDDLE_TRY(plan.weight_bytes, model::weight_bytes(checkpoint, design, load));
  // A step's activations are a few rows of every width; logits at most one row a sequence.
  plan.work_bytes = kFixedWork + scheduler.step_tokens * spec.d_model * 4 * 16 +
                    scheduler.max_sequences * spec.vocab_size * 4;
  plan.sequence_bytes =
      engine::sequence_bytes(design.layout, spec.context_length, scheduler.step_tokens);
  plan.short_sequence_bytes = total(
      engine::sequence_bytes(design.layout, std::min(MemoryPlan::kShortTokens, spec.context_length),
                             scheduler.step_tokens));
  const int64_t left = machine.available - plan.weight_bytes - plan.work_bytes;
  plan.state_bytes = state_bytes > 0 ? state_bytes : std::min(kDefaultState, left / 2);
  const bool known = machine.available > 0;
  if (!known && state_bytes == 0) plan.state_bytes = kDefaultState;
  if (known && (plan.state_bytes > left || plan.state_bytes < kLeastState))
    return fail(
        "{} does not fit: weights {}, working memory {} and state {} are more than the {} that are "
        "available{}; {}",
        checkpoint.path(), mib(plan.weight_bytes), mib(plan.work_bytes),
        mib(std::max(plan.state_bytes, kLeastState)), mib(machine.available),
        machine.limited ? " under the limit of the control group" : "",
        left > kLeastState
            ? fmt::format("--state-gib {:.2f} would fit", static_cast<double>(left) / (1 << 30))
            : std::string("no state would fit beside the weights"));
  return plan;
}

std::vector<std::string> plan_lines(const MemoryPlan& plan) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format("memory: weights {}, working memory {}, state {} of {} available{}",
                              mib(plan.weight_bytes), mib(plan.work_bytes), mib(plan.state_bytes),
                              mib(plan.machine.available),
                              plan.machine.limited ? " (limit of the control group)" : ""));
  const int64_t sequence = std::max<int64_t>(1, total(plan.sequence_bytes));
  lines.push_back(
      fmt::format("state of a sequence at {} tokens: per token {}, window {}, folded {}; {} such "
                  "sequences fit, "
                  "or {} of {} tokens; the prefix cache takes what they leave",
                  plan.context_length, mib(plan.sequence_bytes[0]), mib(plan.sequence_bytes[1]),
                  mib(plan.sequence_bytes[2]), plan.state_bytes / sequence,
                  plan.state_bytes / std::max<int64_t>(1, plan.short_sequence_bytes),
                  MemoryPlan::kShortTokens));
  return lines;
}

}  // namespace heddle::serving
