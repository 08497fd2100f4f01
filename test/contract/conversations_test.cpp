// The state contract end to end, on tiny models of every family.
#include "test/support/conversations.h"

#include <gtest/gtest.h>

namespace heddle::test {
namespace {

class Conversations : public ::testing::TestWithParam<const char*> {};

TEST_P(Conversations, EveryWayOfServingGivesEqualBits) {
  ThreadPool pool(2);
  auto model = model::Model::load(std::string(HEDDLE_GOLDEN_DIR) + "/" + GetParam(), {}, pool);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const int64_t vocab = (*model)->spec().vocab_size;
  const std::vector<Script> scripts = {random_script({40, 9, 64}, vocab, 1),
                                       random_script({65, 1, 30}, vocab, 2),
                                       random_script({3, 90, 7}, vocab, 3)};
  check_conversations(**model, pool, backend::KernelSet::cpu, scripts, 12);
}

TEST_P(Conversations, TheSpecificationKeepsTheContractToo) {
  ThreadPool pool(2);
  auto model = model::Model::load(std::string(HEDDLE_GOLDEN_DIR) + "/" + GetParam(), {}, pool);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const int64_t vocab = (*model)->spec().vocab_size;
  check_conversations(**model, pool, backend::KernelSet::reference,
                      {random_script({33, 8}, vocab, 4)}, 4);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Conversations,
                         ::testing::Values("llama", "llama_rope3", "qwen3", "gemma3", "lfm2",
                                           "qwen3_5"));

}  // namespace
}  // namespace heddle::test
