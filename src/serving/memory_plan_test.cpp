#include "serving/memory_plan.h"

#include <gtest/gtest.h>

namespace heddle::serving {
namespace {

Result<MemoryPlan> plan(int64_t state_bytes, int64_t available, const char* model = "llama") {
  HEDDLE_TRY(const auto checkpoint,
             model::Checkpoint::open(std::string(HEDDLE_GOLDEN_DIR "/") + model));
  backend::MachineMemory machine;
  machine.total = int64_t{64} << 30;
  machine.available = available;
  machine.limited = true;
  return plan_memory(checkpoint, {}, {}, state_bytes, machine);
}

TEST(MemoryPlan, TakesHalfOfWhatIsLeftUpToFourGibibytes) {
  const auto large = plan(0, int64_t{64} << 30);
  ASSERT_TRUE(large.has_value()) << large.error().message;
  EXPECT_EQ(large->state_bytes, int64_t{4} << 30);
  const auto small = plan(0, int64_t{1} << 30);
  ASSERT_TRUE(small.has_value()) << small.error().message;
  EXPECT_LT(small->state_bytes, int64_t{1} << 29);
  EXPECT_LE(small->weight_bytes + small->work_bytes + small->state_bytes, int64_t{1} << 30);
}

TEST(MemoryPlan, RefusesWithTheNumbers) {
  const auto state = plan(int64_t{2} << 30, int64_t{1} << 30);
  ASSERT_FALSE(state.has_value());
  for (const char* part : {"weights", "state 2048 MiB", "1024 MiB", "control group", "would fit"})
    EXPECT_NE(state.error().message.find(part), std::string::npos) << state.error().message;
  const auto model = plan(0, 1 << 20);
  ASSERT_FALSE(model.has_value());
  EXPECT_NE(model.error().message.find("no state would fit"), std::string::npos);
}

TEST(MemoryPlan, TellsStateByGrowthClass) {
  const auto hybrid = plan(0, int64_t{8} << 30, "qwen3_5");
  ASSERT_TRUE(hybrid.has_value()) << hybrid.error().message;
  for (const int64_t bytes : hybrid->sequence_bytes) EXPECT_GT(bytes, 0);
  EXPECT_NE(plan_lines(*hybrid)[1].find("folded"), std::string::npos);
}

}  // namespace
}  // namespace heddle::serving
