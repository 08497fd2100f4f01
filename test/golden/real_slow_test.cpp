// Real models against what transformers computes from the same files dequantised to float32
// (data/real): likelihood of every token of 4,096, the ten best tokens at some positions.
// HEDDLE_MODELS_DIR holds the files; tools/fetch_model.py obtains them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/mmap_file.h"
#include "model/model.h"
#include "model/score.h"

namespace heddle {
namespace {

constexpr double kMeanTolerance = 1e-4;        // nats, in full precision
constexpr double kPerplexityTolerance = 5e-3;  // relative, in the file's own precision
constexpr double kTie = 2e-3;                  // logits this close may change places

struct RealModel {
  const char* name;
  const char* file;
};

void PrintTo(const RealModel& model, std::ostream* out) { *out << model.file; }

struct Outcome {
  double mean = 0;
  std::map<int64_t, std::vector<std::pair<int32_t, float>>> top;  // position -> best eleven
};

class Real : public testing::TestWithParam<RealModel> {
 protected:
  void SetUp() override {
    const std::filesystem::path models = HEDDLE_MODELS_DIR;
    path_ = (models / GetParam().file).string();
    if (models.empty() || !std::filesystem::exists(path_))
      GTEST_SKIP() << "HEDDLE_MODELS_DIR has no " << GetParam().file
                   << "; tools/fetch_model.py obtains it";
    const auto text =
        read_text_file(std::string(HEDDLE_GOLDEN_DIR) + "/real/" + GetParam().name + ".json");
    ASSERT_TRUE(text) << text.error().message;
    golden_ = nlohmann::json::parse(*text);
    ids_ = golden_["ids"].get<std::vector<int32_t>>();
    want_ = golden_["nll"].get<std::vector<double>>();
    ASSERT_EQ(ids_.size(), want_.size() + 1);
  }

  Outcome run(bool full_precision) {
    Outcome outcome;
    model::LoadOptions options;
    options.full_precision = full_precision;
    auto loaded = model::Model::load(path_, options, pool_);
    EXPECT_TRUE(loaded) << (loaded ? "" : loaded.error().message);
    if (!loaded) return outcome;
    const int64_t vocab = (*loaded)->spec().vocab_size;
    double sum = 0;
    const auto sink = [&](int64_t first, int64_t count, const float* logits) {
      for (int64_t r = 0; r < count; ++r) {
        const float* row = logits + r * vocab;
        if (first + r < std::ssize(want_))
          sum += nll(row, vocab, ids_[static_cast<size_t>(first + r + 1)]);
        if (golden_["top"].contains(std::to_string(first + r)))
          outcome.top[first + r] = best(row, vocab, 11);
      }
    };
    const Status done = model::run_logits(**loaded, pool_, ids_, {}, sink);
    EXPECT_TRUE(done) << (done ? "" : done.error().message);
    outcome.mean = sum / static_cast<double>(want_.size());
    return outcome;
  }

  static double nll(const float* row, int64_t vocab, int32_t id) {
    const float highest = *std::max_element(row, row + vocab);
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += static_cast<double>(std::exp(row[v] - highest));
    return std::log(sum) + static_cast<double>(highest) - static_cast<double>(row[id]);
  }

  static std::vector<std::pair<int32_t, float>> best(const float* row, int64_t vocab, int64_t n) {
    std::vector<int32_t> order(static_cast<size_t>(vocab));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + n, order.end(),
                      [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    std::vector<std::pair<int32_t, float>> result;
    for (int64_t i = 0; i < n; ++i)
      result.emplace_back(order[static_cast<size_t>(i)], row[order[static_cast<size_t>(i)]]);
    return result;
  }

  double reference_mean() const {
    return std::accumulate(want_.begin(), want_.end(), 0.0) / static_cast<double>(want_.size());
  }

  ThreadPool pool_{ThreadPool::available_cpus()};
  std::string path_;
  nlohmann::json golden_;
  std::vector<int32_t> ids_;
  std::vector<double> want_;
};

TEST_P(Real, FullPrecision) {
  const Outcome got = run(true);
  fmt::print("{}: mean nll {:.6f}, reference {:.6f}\n", GetParam().name, got.mean,
             reference_mean());
  EXPECT_NEAR(got.mean, reference_mean(), kMeanTolerance);
  for (const auto& [position, want] : golden_["top"].items()) {
    const auto found = got.top.find(std::stoll(position));
    ASSERT_NE(found, got.top.end());
    for (size_t i = 0; i < want.size(); ++i) {
      const auto id = want[i][0].get<int32_t>();
      const auto logit = want[i][1].get<double>();
      // The same token in the same place, or one with the same logit as far as anybody can tell.
      EXPECT_TRUE(found->second[i].first == id ||
                  std::abs(static_cast<double>(found->second[i].second) - logit) < kTie)
          << "position " << position << " place " << i << ": " << found->second[i].first << " "
          << found->second[i].second << ", expected " << id << " " << logit;
    }
  }
}

TEST_P(Real, AsStored) {
  const Outcome got = run(false);
  const double ratio = std::exp(got.mean - reference_mean());
  fmt::print("{}: perplexity {:.4f}, reference {:.4f}, ratio {:.5f}\n", GetParam().name,
             std::exp(got.mean), std::exp(reference_mean()), ratio);
  EXPECT_NEAR(ratio, 1, kPerplexityTolerance);
}

INSTANTIATE_TEST_SUITE_P(Models, Real,
                         testing::Values(RealModel{"smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"},
                                         RealModel{"gemma3", "gemma-3-270m-q4-k-m.gguf"}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace heddle
