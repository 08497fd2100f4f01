#pragma once
// Random conversations through the engine, played in every way that serving has: the bits of the
// logits must not tell which.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/model_executor.h"
#include "model/model.h"
#include "state/snapshot_file.h"

namespace heddle::test {

// One turn's answer: its tokens and the logits that each was chosen from.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  int64_t cached = 0;
};

// What the user says in each turn of a conversation; answers come between.
using Script = std::vector<std::vector<int32_t>>;

inline Script random_script(const std::vector<int64_t>& lengths, int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  Script script;
  for (const int64_t length : lengths) {
    script.emplace_back();
    for (int64_t i = 0; i < length; ++i)
      script.back().push_back(static_cast<int32_t>(rng.below(vocab)));
  }
  return script;
}

class Player {
 public:
  Player(const model::Model& model, ThreadPool& pool, backend::KernelSet kernels,
         int64_t step_tokens, bool cache)
      : model_(model),
        executor_(model, pool, kernels),
        engine_(executor_, options(step_tokens, cache)) {}

  engine::RequestId ask(const std::vector<int32_t>& prompt, int64_t output, uint64_t seed) {
    engine::Request request;
    request.prompt = prompt;
    request.max_tokens = output;
    request.sampling.seed = seed;
    request.keep_logits = true;
    auto id = engine_.submit(std::move(request));
    EXPECT_TRUE(id.has_value()) << (id ? "" : id.error().message);
    return id.value_or(0);
  }
  // Runs until nothing is left; answers by request.
  std::map<engine::RequestId, Answer> play() {
    std::map<engine::RequestId, Answer> answers;
    while (!engine_.idle()) {
      for (engine::Event& event : engine_.step()) {
        Answer& answer = answers[event.request];
        if (event.kind == engine::Event::Kind::token) {
          answer.tokens.push_back(event.sample.token);
          answer.logits.push_back(std::move(event.logits));
        } else if (event.kind == engine::Event::Kind::finished) {
          answer.cached = event.usage.cached_tokens;
        }
      }
    }
    engine_.check_invariants();
    return answers;
  }
  Answer answer(const std::vector<int32_t>& prompt, int64_t output, uint64_t seed) {
    const auto id = ask(prompt, output, seed);
    return play().at(id);
  }

  void save(const std::string& path, const std::vector<int32_t>& tokens) {
    const auto saved = engine_.longest_prefix("", tokens);
    ASSERT_GT(saved.snapshot.position, 0);
    const auto status = state::save_snapshot(path, model_.layout(), model_.snapshot_identity(),
                                             saved.tokens, saved.snapshot);
    ASSERT_TRUE(status.has_value()) << status.error().message;
  }
  void load(const std::string& path) {
    auto saved = state::load_snapshot(path, model_.layout(), model_.snapshot_identity(),
                                      engine_.pool(), int64_t{1} << 30);
    ASSERT_TRUE(saved.has_value()) << saved.error().message;
    engine_.restore("", {saved->snapshot, saved->tokens});
  }

 private:
  static engine::EngineOptions options(int64_t step_tokens, bool cache) {
    engine::EngineOptions options;
    options.scheduler.step_tokens = step_tokens;
    options.prefix_cache = cache;
    options.state_bytes = int64_t{2} << 30;
    return options;
  }
  const model::Model& model_;
  engine::ModelExecutor executor_;
  engine::Engine engine_;
};

inline ::testing::AssertionResult same_answer(const Answer& a, const Answer& b) {
  if (a.tokens != b.tokens) return ::testing::AssertionFailure() << "other tokens";
  for (size_t i = 0; i < a.logits.size(); ++i)
    if (a.logits[i].size() != b.logits[i].size() ||
        std::memcmp(a.logits[i].data(), b.logits[i].data(), a.logits[i].size() * sizeof(float)) !=
            0)
      return ::testing::AssertionFailure() << "other logits of token " << i;
  return ::testing::AssertionSuccess();
}

// Every turn answered by a new engine without cache, in whole chunks: what all other ways must
// equal.
struct Expected {
  std::vector<std::vector<int32_t>> prompts;  // of each turn, the conversation so far included
  std::vector<Answer> answers;
};
inline Expected play_cold(const model::Model& model, ThreadPool& pool, backend::KernelSet kernels,
                          const Script& script, int64_t output, uint64_t seed) {
  Expected expected;
  std::vector<int32_t> conversation;
  for (const auto& said : script) {
    conversation.insert(conversation.end(), said.begin(), said.end());
    Player cold(model, pool, kernels, 4096, false);
    expected.prompts.push_back(conversation);
    expected.answers.push_back(cold.answer(conversation, output, seed));
    const auto& tokens = expected.answers.back().tokens;
    conversation.insert(conversation.end(), tokens.begin(), tokens.end());
  }
  return expected;
}

// Cold, warm, chunked, batched and restored from disk.
inline void check_conversations(const model::Model& model, ThreadPool& pool,
                                backend::KernelSet kernels, const std::vector<Script>& scripts,
                                int64_t output) {
  std::vector<Expected> expected;
  for (size_t c = 0; c < scripts.size(); ++c)
    expected.push_back(play_cold(model, pool, kernels, scripts[c], output, c));
  for (const int64_t step_tokens : {int64_t{512}, int64_t{7}, int64_t{65}}) {
    Player warm(model, pool, kernels, step_tokens, true);
    for (size_t c = 0; c < scripts.size(); ++c)
      for (size_t turn = 0; turn < scripts[c].size(); ++turn) {
        const Answer got = warm.answer(expected[c].prompts[turn], output, c);
        EXPECT_TRUE(same_answer(got, expected[c].answers[turn]))
            << "warm, steps of " << step_tokens << ", turn " << turn;
        // All but the last answer token and the new message has been read before.
        if (turn > 0) {
          EXPECT_EQ(
              got.cached,
              static_cast<int64_t>(expected[c].prompts[turn].size() - scripts[c][turn].size()) - 1);
        }
        const Answer again = warm.answer(expected[c].prompts[turn], output, c);
        EXPECT_TRUE(same_answer(again, expected[c].answers[turn])) << "asked again, turn " << turn;
        EXPECT_EQ(again.cached, static_cast<int64_t>(expected[c].prompts[turn].size()) - 1);
      }
  }
  for (const bool cache : {false, true}) {  // all conversations at once, turn by turn
    Player together(model, pool, kernels, 33, cache);
    for (size_t turn = 0; turn < scripts[0].size(); ++turn) {
      std::vector<engine::RequestId> ids;
      for (size_t c = 0; c < scripts.size(); ++c)
        ids.push_back(together.ask(expected[c].prompts[turn], output, c));
      const auto answers = together.play();
      for (size_t c = 0; c < scripts.size(); ++c)
        EXPECT_TRUE(same_answer(answers.at(ids[c]), expected[c].answers[turn]))
            << "together, cache " << cache;
    }
  }
  // Saved after the first turn, restored into a new engine for each later one.
  const auto path = std::filesystem::temp_directory_path() /
                    ("heddle_conversation_" + std::to_string(::getpid()) + ".snapshot");
  for (size_t turn = 1; turn < scripts[0].size(); ++turn) {
    Player first(model, pool, kernels, 64, true);
    first.answer(expected[0].prompts[turn - 1], output, 0);
    first.save(path.string(), expected[0].prompts[turn]);
    Player second(model, pool, kernels, 64, true);
    second.load(path.string());
    const Answer got = second.answer(expected[0].prompts[turn], output, 0);
    EXPECT_TRUE(same_answer(got, expected[0].answers[turn])) << "restored, turn " << turn;
    EXPECT_GT(got.cached, 0);
  }
  std::filesystem::remove(path);
}

}  // namespace heddle::test
