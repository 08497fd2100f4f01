// The state contract end to end, on tiny models of every family.
#include "test/support/conversations.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/family_common.h"
#include "model/weights.h"
#include "sublayer/kind_table.h"

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

// A model of every mixer, so that a new one is served, saved and restored without a test of its
// own.
class MixerConversations : public ::testing::TestWithParam<const sublayer::Kind*> {};

std::vector<const sublayer::Kind*> mixers() {
  std::vector<const sublayer::Kind*> all;
  for (const sublayer::Kind* kind : sublayer::kind_table()) {
    const sublayer::Case first = kind->cases().front();
    const auto design = sublayer::make_design(*kind, first.params, first.precision);
    if (design && !(*design)->state_parts().empty()) all.push_back(kind);
  }
  return all;
}

TEST_P(MixerConversations, EveryWayOfServingGivesEqualBits) {
  const std::vector<sublayer::Case> cases = GetParam()->cases();
  const auto small =
      std::find_if(cases.begin(), cases.end(), [](const auto& c) { return !c.bench; });
  ASSERT_NE(small, cases.end());
  model::ModelSpec spec;
  spec.vocab_size = 90;
  spec.d_model = *small->params.integer("d_model");
  spec.context_length = 512;
  spec.norm_eps = 1e-5f;
  spec.layers.assign(2, model::decoder_layer(spec, GetParam()->name, small->params, 64));
  ThreadPool pool(2);
  const auto weights = model::random_weights(spec, DType::bf16, 3, pool);
  const auto model = model::Model::from_weights(spec, *weights, {}, pool);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  check_conversations(
      **model, pool, backend::KernelSet::cpu,
      {random_script({40, 9}, spec.vocab_size, 1), random_script({65, 1}, spec.vocab_size, 2)}, 6);
}

INSTANTIATE_TEST_SUITE_P(Kinds, MixerConversations, ::testing::ValuesIn(mixers()),
                         [](const auto& test) { return std::string(test.param->name); });

}  // namespace
}  // namespace heddle::test
