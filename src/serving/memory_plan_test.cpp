#include "serving/memory_plan.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/mmap_file.h"

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

// A copy of a model whose file holds four megabytes more than the model has.
std::string with_a_vision_tower(const std::string& folder) {
  const std::string copy =
      (std::filesystem::temp_directory_path() / fmt::format("heddle-plan-{}", getpid())).string();
  std::filesystem::copy(folder, copy, std::filesystem::copy_options::recursive);
  std::string file = *read_text_file(folder + "/model.safetensors", size_t{1} << 24);
  uint64_t size = 0;
  std::memcpy(&size, file.data(), 8);
  std::string header = file.substr(8, size);
  const std::string data = file.substr(8 + size);
  constexpr size_t kExtra = 4000000;
  header = header.substr(0, header.rfind('}')) +
           fmt::format(
               R"(,"vision.patch":{{"dtype":"F32","shape":[1000,1000],"data_offsets":[{},{}]}}}})",
               data.size(), data.size() + kExtra);
  header.resize((header.size() + 7) / 8 * 8, ' ');
  size = header.size();
  std::ofstream out(copy + "/model.safetensors", std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(&size), 8);
  out << header << data << std::string(kExtra, '\0');
  return copy;
}

TEST(MemoryPlan, CountsTheWeightsThatAreLoaded) {
  const std::string folder = with_a_vision_tower(std::string(HEDDLE_GOLDEN_DIR "/gemma3"));
  const auto checkpoint = model::Checkpoint::open(folder);
  ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message;
  ThreadPool pool(2);
  for (const model::LoadOptions& load :
       {model::LoadOptions{}, model::LoadOptions{.full_precision = true},
        model::LoadOptions{.quantize = DType::q8_0}}) {
    backend::MachineMemory machine;
    machine.available = int64_t{8} << 30;
    const auto plan = plan_memory(*checkpoint, load, {}, 0, machine);
    ASSERT_TRUE(plan.has_value()) << plan.error().message;
    const auto model = model::Model::load(*checkpoint, load, pool);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const auto held = static_cast<double>((*model)->weight_bytes());
    EXPECT_NEAR(static_cast<double>(plan->weight_bytes), held, 0.05 * held);
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace heddle::serving
