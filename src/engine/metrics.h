#pragma once
// What the engine counts about itself. Plain numbers, owned by the engine's thread; a copy is a
// consistent picture between two steps. How they are shown is the server's business.
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"
#include "state/state_part.h"

namespace heddle::engine {

// Counts of observations by upper bound (inclusive), and their sum.
class Histogram {
 public:
  // Bounds ascend; what lies above the last one is counted as well.
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size() + 1) {}

  void observe(double value);
  std::span<const double> bounds() const { return bounds_; }
  // Not cumulative; one more than there are bounds.
  std::span<const int64_t> counts() const { return counts_; }
  int64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;
  int64_t count_ = 0;
  double sum_ = 0;
};

constexpr int kFinishReasons = 4;

struct EngineMetrics {
  EngineMetrics();

  int64_t requests_submitted = 0;
  std::array<int64_t, kFinishReasons> requests_finished{};  // by FinishReason
  int64_t requests_refused = 0;                             // the queue was full
  int64_t prompt_tokens = 0;                                // of requests that have started
  int64_t cached_tokens = 0;  // of them, found in the prefix cache or read by another request
  int64_t computed_prompt_tokens = 0;  // of them, read by the model so far
  int64_t output_tokens = 0;
  int64_t cache_queried_tokens = 0;  // of the prompts that were looked up
  int64_t steps = 0;
  int64_t step_rows = 0;

  // Of every request, seconds.
  Histogram time_to_first_token;  // since it was submitted
  Histogram inter_token;
  Histogram end_to_end;
  Histogram queue;
  Histogram prefill;  // first step until first token
  Histogram decode;   // first token until last
  // Of every request, tokens.
  Histogram prompt_length;
  Histogram computed_prompt_length;  // without what was cached
  Histogram output_length;
  Histogram rows_per_step;

  // Now.
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t state_limit_bytes = 0;
  int64_t state_reserved_bytes = 0;  // what running sequences may still come to hold
  std::array<int64_t, state::kGrowthClasses> state_bytes_by_growth{};
  int64_t cache_bytes = 0;
  int64_t cache_unreachable_bytes = 0;
  int64_t cache_points = 0;
  int64_t cache_blocks = 0;
  int64_t cache_evicted_points = 0;
  int64_t cache_evicted_blocks = 0;
};

}  // namespace heddle::engine
