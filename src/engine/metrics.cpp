#include "engine/metrics.h"

#include <algorithm>

namespace heddle::engine {
namespace {

// The bounds that vLLM uses, so that panels made for it keep their resolution.
constexpr double kFirstToken[] = {0.001, 0.005, 0.01, 0.02,  0.04,  0.06,  0.08, 0.1,
                                  0.25,  0.5,   0.75, 1.0,   2.5,   5.0,   7.5,  10.0,
                                  20.0,  40.0,  80.0, 160.0, 640.0, 2560.0};
constexpr double kInterToken[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                  0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1.0,   2.5,
                                  5.0,   7.5,    10.0,  20.0, 40.0,  80.0};
constexpr double kRequest[] = {0.01, 0.05, 0.1,   0.3,   0.5,   0.8,   1.0,    1.5,
                               2.0,  2.5,  5.0,   10.0,  15.0,  20.0,  30.0,   40.0,
                               50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
constexpr double kTokens[] = {1,    2,    5,    10,    20,    50,    100,    200,    500,
                              1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 1000000};
constexpr double kRows[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};

}  // namespace

void Histogram::observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  ++counts_[static_cast<size_t>(bucket)];
  ++count_;
  sum_ += value;
}

EngineMetrics::EngineMetrics()
    : time_to_first_token(kFirstToken),
      inter_token(kInterToken),
      end_to_end(kRequest),
      queue(kRequest),
      prefill(kRequest),
      decode(kRequest),
      prompt_length(kTokens),
      computed_prompt_length(kTokens),
      output_length(kTokens),
      rows_per_step(kRows) {}

}  // namespace heddle::engine
