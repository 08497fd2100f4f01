// Tiny models of every family against the logits that Hugging Face transformers computes for them
// (data/README.md), with both kernel sets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/files/safetensors.h"
#include "model/model.h"
#include "model/score.h"

namespace heddle {
namespace {

constexpr double kTolerance = 1e-4;    // of the standard deviation of the logits
constexpr float kClearMargin = 1e-3f;  // below it a greedy step may differ

template <class T>
std::vector<T> read(const model::TensorTable& tensors, const char* name) {
  const model::TensorInfo* tensor = tensors.find(name);
  if (tensor == nullptr || tensor->bytes % static_cast<int64_t>(sizeof(T)) != 0) return {};
  std::vector<T> values(static_cast<size_t>(tensor->bytes) / sizeof(T));
  std::memcpy(values.data(), tensor->data, static_cast<size_t>(tensor->bytes));
  return values;
}

std::vector<int32_t> read_ids(const model::TensorTable& tensors, const char* name) {
  const auto wide = read<int64_t>(tensors, name);
  return {wide.begin(), wide.end()};
}

double deviation(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / n - sum / n * (sum / n));
}

class Golden : public testing::TestWithParam<std::tuple<const char*, backend::KernelSet>> {
 protected:
  void SetUp() override {
    const std::string folder = std::string(HEDDLE_GOLDEN_DIR) + "/" + std::get<0>(GetParam());
    auto golden = model::open_safetensors(folder + "/golden.safetensors");
    ASSERT_TRUE(golden) << golden.error().message;
    golden_ = std::move(*golden);
    model::LoadOptions options;
    options.full_precision = true;
    auto loaded = model::Model::load(folder, options, pool_);
    ASSERT_TRUE(loaded) << loaded.error().message;
    model_ = std::move(*loaded);
  }

  // Logits of every row, [T, V].
  std::vector<float> logits(const std::vector<int32_t>& ids) {
    std::vector<float> all(ids.size() * static_cast<size_t>(model_->spec().vocab_size),
                           std::nanf(""));
    model::ScoreOptions options;
    options.kernels = std::get<1>(GetParam());
    const int64_t vocab = model_->spec().vocab_size;
    const Status done = model::run_logits(
        *model_, pool_, ids, options, [&](int64_t first, int64_t count, const float* rows) {
          std::copy(rows, rows + count * vocab, all.begin() + first * vocab);
        });
    EXPECT_TRUE(done) << (done ? "" : done.error().message);
    return all;
  }

  void expect_close(std::span<const float> got, const std::vector<float>& want, double scale) {
    ASSERT_EQ(got.size(), want.size());
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      const double error = std::abs(static_cast<double>(got[i]) - want[i]);
      worst = error <= worst ? worst : error;  // NaN sticks
    }
    RecordProperty("error_over_deviation", std::to_string(worst / scale));
    EXPECT_LE(worst / scale, kTolerance);
  }

  ThreadPool pool_{2};
  model::Safetensors golden_;
  std::unique_ptr<model::Model> model_;
};

TEST_P(Golden, Logits) {
  const auto want = read<float>(golden_.tensors, "logits");
  const auto ids = read_ids(golden_.tensors, "input_ids");
  ASSERT_FALSE(ids.empty());
  expect_close(logits(ids), want, deviation(want));
}

TEST_P(Golden, LongLogits) {
  const auto want = read<float>(golden_.tensors, "long_logits");
  const auto ids = read_ids(golden_.tensors, "long_ids");
  ASSERT_FALSE(ids.empty());
  const std::vector<float> all = logits(ids);
  expect_close(std::span(all).last(want.size()), want, deviation(want));
}

// The reference's own continuation is fed back, so a step with a tiny margin spoils no later one.
TEST_P(Golden, Greedy) {
  auto ids = read_ids(golden_.tensors, "input_ids");
  const auto greedy = read_ids(golden_.tensors, "greedy_ids");
  const auto margin = read<float>(golden_.tensors, "greedy_margin");
  ASSERT_EQ(greedy.size(), margin.size());
  const size_t prompt = ids.size();
  ids.insert(ids.end(), greedy.begin(), greedy.end());
  const std::vector<float> all = logits(ids);
  const auto vocab = static_cast<size_t>(model_->spec().vocab_size);
  size_t compared = 0;
  for (size_t i = 0; i < greedy.size(); ++i) {
    if (margin[i] <= kClearMargin) continue;
    const auto row = all.begin() + static_cast<std::ptrdiff_t>((prompt - 1 + i) * vocab);
    EXPECT_EQ(std::max_element(row, row + static_cast<std::ptrdiff_t>(vocab)) - row, greedy[i])
        << "step " << i;
    ++compared;
  }
  EXPECT_GT(compared, greedy.size() / 2);
}

std::string test_name(const testing::TestParamInfo<Golden::ParamType>& test) {
  return std::string(std::get<0>(test.param)) +
         (std::get<1>(test.param) == backend::KernelSet::cpu ? "_cpu" : "_reference");
}

INSTANTIATE_TEST_SUITE_P(Families, Golden,
                         testing::Combine(testing::Values("llama", "llama_rope3", "qwen3", "gemma3",
                                                          "gemma3_d96", "lfm2", "qwen3_5"),
                                          testing::Values(backend::KernelSet::cpu,
                                                          backend::KernelSet::reference)),
                         test_name);

}  // namespace
}  // namespace heddle
