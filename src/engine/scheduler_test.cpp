#include "engine/scheduler.h"

#include <gtest/gtest.h>
// After gtest.h.
#include <rapidcheck/gtest.h>

namespace heddle::engine {
namespace {

SequenceProgress prompt(int64_t pending, int64_t cut = 0) {
  SequenceProgress progress;
  progress.pending = pending;
  progress.next_cut = cut;
  return progress;
}

SequenceProgress decoding() {
  SequenceProgress progress;
  progress.pending = 1;
  progress.decoding = true;
  return progress;
}

TEST(Scheduler, DecodingSequencesRunEveryStepBesideALongPrompt) {
  const std::vector<SequenceProgress> running = {prompt(10000), decoding(), decoding()};
  const auto plan = plan_step(running, {512, 64});
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].tokens, 510);
  EXPECT_EQ(plan[1].tokens, 1);
  EXPECT_EQ(plan[2].tokens, 1);
}

TEST(Scheduler, AShortPromptIsNotStarvedByALongOne) {
  const auto plan = plan_step(std::vector<SequenceProgress>{prompt(10000), prompt(20)}, {512, 64});
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[1].tokens, 20);
}

TEST(Scheduler, ChunksEndAtCuts) {
  const auto plan = plan_step(std::vector<SequenceProgress>{prompt(300, 37)}, {512, 64});
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].tokens, 37);
}

RC_GTEST_PROP(Scheduler, NeverIdlesNeverExceedsAndNeverInvents, ()) {
  const auto count = *rc::gen::inRange(1, 20);
  std::vector<SequenceProgress> running;
  int64_t decoders = 0;
  int64_t pending = 0;
  for (int i = 0; i < count; ++i) {
    SequenceProgress progress;
    progress.decoding = *rc::gen::arbitrary<bool>();
    progress.pending = progress.decoding ? 1 : *rc::gen::inRange<int64_t>(0, 2000);
    progress.next_cut = *rc::gen::inRange<int64_t>(0, 300);
    decoders += progress.decoding;
    pending += progress.pending;
    running.push_back(progress);
  }
  SchedulerOptions options;
  options.step_tokens = *rc::gen::inRange<int64_t>(1, 600);
  const auto plan = plan_step(running, options);
  int64_t rows = 0;
  int64_t last = -1;
  int64_t planned_decoders = 0;
  for (const PlannedChunk& chunk : plan) {
    RC_ASSERT(chunk.sequence > last);
    last = chunk.sequence;
    const SequenceProgress& progress = running[static_cast<size_t>(chunk.sequence)];
    RC_ASSERT(chunk.tokens >= 1 && chunk.tokens <= progress.pending);
    if (progress.next_cut > 0) RC_ASSERT(chunk.tokens <= progress.next_cut);
    planned_decoders += progress.decoding;
    rows += chunk.tokens;
  }
  RC_ASSERT(planned_decoders == decoders);
  RC_ASSERT((pending > 0) == !plan.empty());
  RC_ASSERT(rows <= std::max(options.step_tokens, decoders + 1));
}

TEST(Join, AtTheEndOfWhatIsCommonIfThatIsFurtherThanTheCache) {
  const std::vector<InFlight> running = {{.common = 90, .position = 10},
                                         {.common = 300, .position = 200},
                                         {.common = 300, .position = 0}};
  const Join join = plan_join(running, 500, 100, false);
  EXPECT_EQ(join.sequence, 1);
  EXPECT_EQ(join.position, 300);
  // Not worth a cut.
  EXPECT_EQ(plan_join(running, 500, 300 - kWorthJoining + 1, false).sequence, -1);
  EXPECT_EQ(plan_join(running, 500, 300 - kWorthJoining, false).sequence, 1);
  EXPECT_EQ(plan_join({}, 500, 0, true).sequence, -1);
}

TEST(Join, TheLastTokenRunsForEachUnlessTheWholePromptsAreTheSame) {
  InFlight other{.common = 200, .position = 0};
  EXPECT_EQ(plan_join(std::vector{other}, 200, 0, false).position, 199);
  other.same = true;
  EXPECT_EQ(plan_join(std::vector{other}, 200, 0, false).position, 200);
  EXPECT_EQ(plan_join(std::vector{other}, 200, 199, false).position, 200);
}

TEST(Join, AStateThatHasPassedThePlaceServesOnlyIfItCanBeTrimmed) {
  const std::vector<InFlight> running = {{.common = 300, .position = 301}};
  EXPECT_EQ(plan_join(running, 500, 0, false).sequence, -1);
  EXPECT_EQ(plan_join(running, 500, 0, true).position, 300);
  const std::vector<InFlight> there = {{.common = 300, .position = 300}};
  EXPECT_EQ(plan_join(there, 500, 0, false).position, 300);
}

}  // namespace
}  // namespace heddle::engine
