// The state contract end to end, on the real models.
#include <gtest/gtest.h>

#include <filesystem>

#include "test/support/conversations.h"

namespace heddle::test {
namespace {

class RealConversations : public ::testing::TestWithParam<const char*> {};

TEST_P(RealConversations, EveryWayOfServingGivesEqualBits) {
  const std::filesystem::path path = std::filesystem::path(HEDDLE_MODELS_DIR) / GetParam();
  if (!std::filesystem::exists(path))
    GTEST_SKIP() << path << " is not there: tools/fetch_model.py fetches it";
  ThreadPool pool(2);
  auto model = model::Model::load(path.string(), {}, pool);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const int64_t vocab = (*model)->spec().vocab_size;
  const std::vector<Script> scripts = {random_script({100, 20}, vocab, 1),
                                       random_script({30, 65}, vocab, 2)};
  check_conversations(**model, pool, backend::KernelSet::cpu, scripts, 6);
}

INSTANTIATE_TEST_SUITE_P(Real, RealConversations,
                         ::testing::Values("SmolLM2-135M-Instruct.Q4_1.gguf",
                                           "gemma-3-270m-q4-k-m.gguf"),
                         [](const auto& test) {
                           return std::string(test.index == 0 ? "SmolLM2" : "Gemma3");
                         });

}  // namespace
}  // namespace heddle::test
