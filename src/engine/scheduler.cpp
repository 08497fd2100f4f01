#include "engine/scheduler.h"

#include <algorithm>

namespace heddle::engine {
namespace {

int64_t most_rows(const SequenceProgress& sequence) {
  int64_t rows = sequence.pending;
  if (sequence.next_cut > 0) rows = std::min(rows, sequence.next_cut);
  if (sequence.row_limit > 0) rows = std::min(rows, sequence.row_limit);
  return rows;
}

}  // namespace

std::vector<PlannedChunk> plan_step(std::span<const SequenceProgress> running,
                                    const SchedulerOptions& options) {
  std::vector<PlannedChunk> plan;
  int64_t budget = options.step_tokens;
  int64_t prompts = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    if (running[i].pending == 0) continue;
    if (!running[i].decoding) {
      ++prompts;
      continue;
    }
    plan.push_back({static_cast<int64_t>(i), most_rows(running[i])});
    budget -= plan.back().tokens;
  }
  if (prompts > 0) budget = std::max<int64_t>(budget, 1);
  for (size_t i = 0; i < running.size() && prompts > 0; ++i) {
    if (running[i].pending == 0 || running[i].decoding) continue;
    // An even share of what is left; what a short prompt leaves over goes to those behind it.
    const int64_t share = (budget + prompts - 1) / prompts;
    --prompts;
    const int64_t rows = std::min(most_rows(running[i]), share);
    if (rows <= 0) continue;
    plan.push_back({static_cast<int64_t>(i), rows});
    budget -= rows;
  }
  std::sort(plan.begin(), plan.end(),
            [](const PlannedChunk& a, const PlannedChunk& b) { return a.sequence < b.sequence; });
  return plan;
}

Join plan_join(std::span<const InFlight> running, int64_t prompt_tokens, int64_t cached,
               bool trims) {
  Join best;
  for (size_t i = 0; i < running.size(); ++i) {
    const InFlight& other = running[i];
    const int64_t place = other.same ? prompt_tokens : std::min(other.common, prompt_tokens - 1);
    if (place < other.position && !trims) continue;
    const int64_t least = other.same ? 1 : kWorthJoining;
    if (place < cached + least || place <= best.position) continue;
    best = {static_cast<int64_t>(i), place};
  }
  return best;
}

}  // namespace heddle::engine
