// The state contract over whole models: every way of feeding a text gives the same bits.
#include "model/score.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "base/rng.h"
#include "model/presets.h"
#include "model/weights.h"

namespace heddle::model {
namespace {

constexpr int64_t kTokens = 150;

class Contract : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto loaded = Model::load(std::string(HEDDLE_GOLDEN_DIR) + "/" + GetParam(), {}, pool_);
    ASSERT_TRUE(loaded) << loaded.error().message;
    model_ = std::move(*loaded);
    Rng rng(7);
    for (int64_t i = 0; i < kTokens; ++i)
      ids_.push_back(static_cast<int32_t>(rng.below(model_->spec().vocab_size)));
    snapshot_ = (std::filesystem::temp_directory_path() /
                 fmt::format("heddle-{}-{}.snapshot", GetParam(), getpid()))
                    .string();
  }
  void TearDown() override { std::filesystem::remove(snapshot_); }

  std::vector<float> logits(ScoreOptions options, int threads = 2) {
    options.snapshot_file = snapshot_;
    ThreadPool pool(threads);
    const int64_t vocab = model_->spec().vocab_size;
    std::vector<float> all(static_cast<size_t>(kTokens * vocab), -1);
    const Status done = run_logits(
        *model_, pool, ids_, options, [&](int64_t first, int64_t count, const float* rows) {
          std::memcpy(all.data() + first * vocab, rows, static_cast<size_t>(count * vocab) * 4);
        });
    EXPECT_TRUE(done) << (done ? "" : done.error().message);
    return all;
  }

  static bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
  }

  ThreadPool pool_{2};
  std::unique_ptr<Model> model_;
  std::vector<int32_t> ids_;
  std::string snapshot_;
};

TEST_P(Contract, EveryWayGivesEqualBits) {
  const std::vector<float> want = logits({});
  for (const int64_t chunk : {1, 7, 63, 64, 65})
    EXPECT_TRUE(same(logits({.chunk = chunk}), want)) << "chunk " << chunk;
  EXPECT_TRUE(same(logits({}, 1), want)) << "one thread";
  EXPECT_TRUE(same(logits({.chunk = 20, .batch_with = 3}), want)) << "batch";
  for (const int64_t at : {63, 64, 130})
    EXPECT_TRUE(same(logits({.chunk = 30, .restore_at = at}), want)) << "restore at " << at;
  for (const int64_t at : {0, 33, 63, 127})
    EXPECT_TRUE(same(logits({.chunk = 30, .draft_at = at}), want)) << "drafts at " << at;
  EXPECT_TRUE(same(logits({.chunk = 17, .batch_with = 2, .restore_at = 70, .draft_at = 71}), want));
}

INSTANTIATE_TEST_SUITE_P(Families, Contract,
                         testing::Values("llama", "qwen3", "gemma3", "lfm2", "qwen3_5"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Score, TokensOutsideTheVocabularyAreRefused) {
  ThreadPool pool(1);
  const auto model = Model::load(std::string(HEDDLE_GOLDEN_DIR) + "/llama", {}, pool);
  ASSERT_TRUE(model);
  for (const int32_t id : {-1, 256}) {
    const int32_t ids[] = {1, id};
    EXPECT_FALSE(run_logits(**model, pool, ids, {}, [](int64_t, int64_t, const float*) {}));
  }
}

TEST(Model, TheHashTellsWeightsAndPrecisionApart) {
  ThreadPool pool(1);
  const std::string folder = std::string(HEDDLE_GOLDEN_DIR) + "/llama";
  const auto hash = [&](const std::string& path, const LoadOptions& options) {
    const auto model = Model::load(path, options, pool);
    EXPECT_TRUE(model);
    return (*model)->weight_hash();
  };
  LoadOptions full;
  full.full_precision = true;
  EXPECT_EQ(hash(folder, {}), hash(folder, {}));
  EXPECT_FALSE(hash(folder, {}) == hash(folder, full));
  EXPECT_FALSE(hash(folder, {}) == hash(std::string(HEDDLE_GOLDEN_DIR) + "/llama_rope3", {}));
}

// Every preset's weights fit its mixers; building them for real is the bench's work.
TEST(Presets, HaveDesigns) {
  for (const std::string_view name : preset_names()) {
    const auto preset = parse_preset(fmt::format("{}:q4_0", name));
    ASSERT_TRUE(preset) << preset.error().message;
    const auto design = make_design(preset->spec, {});
    EXPECT_TRUE(design) << name << ": " << design.error().message;
  }
  EXPECT_FALSE(parse_preset("unheard"));
  EXPECT_FALSE(parse_preset("smollm2-135m:i8"));
}

}  // namespace
}  // namespace heddle::model
