// Every allocation of the engine fails in turn: requests end with what they have or with an error
// that a client may try again after, no state of a failed step is ever used, and the engine goes
// on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <new>

#include "base/rng.h"
#include "engine/engine.h"
#include "test/support/fake_executor.h"

namespace {
// Allocations of this thread that succeed before `failing` of them fail; -1: all succeed.
thread_local int64_t left = -1;
thread_local int64_t failing = 0;
}  // namespace

void* operator new(std::size_t size) {
  if (left == 0 && failing > 0) {
    --failing;
    throw std::bad_alloc();
  }
  if (left > 0) --left;
  if (void* memory = std::malloc(std::max<std::size_t>(size, 1)); memory != nullptr) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace heddle::engine {
namespace {

using test::FakeExecutor;
using Tokens = std::vector<int32_t>;

Tokens random_prompt(int64_t count, uint64_t seed) {
  Rng rng(seed);
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<int32_t>(rng.below(FakeExecutor::kVocabulary)));
  return tokens;
}

Tokens expected_answer(Tokens text, int64_t count, uint64_t seed) {
  SamplingParams sampling;
  sampling.seed = seed;
  Tokens answer;
  for (int64_t i = 0; i < count; ++i) {
    answer.push_back(FakeExecutor::choice(text, sampling));
    text.push_back(answer.back());
  }
  return answer;
}

struct Asked {
  Tokens expected;
  Tokens tokens;
  Event finished;
  int ends = 0;
};

class Rig {
 public:
  explicit Rig(state::StateLayout layout) : executor_(std::move(layout)), engine_(executor_, {}) {
    asked_.reserve(16);
  }

  void ask(const Tokens& prompt, uint64_t seed) {
    Request request;
    request.prompt = prompt;
    request.max_tokens = 5;
    request.sampling.seed = seed;
    auto asked = std::make_unique<Asked>();
    asked->expected = expected_answer(prompt, request.max_tokens, seed);
    const auto id = engine_.submit(std::move(request));
    if (id) asked_[*id] = std::move(asked);
  }

  // As the service does.
  void run() {
    for (int64_t steps = 0; !engine_.idle(); ++steps) {
      ASSERT_LT(steps, 1000) << "it never ends";
      std::vector<Event> events;
      try {
        events = engine_.step();
      } catch (const std::bad_alloc&) {
        engine_.give_up();
      }
      const int64_t armed = std::exchange(left, -1);  // what the test keeps is not the engine's
      for (Event& event : events) take(event);
      left = armed;
    }
  }

  void check() {
    for (const auto& [id, asked] : asked_) {
      ASSERT_EQ(asked->ends, 1) << "request " << id;
      if (asked->finished.reason == FinishReason::error) {
        ++failed;
        EXPECT_TRUE(asked->finished.temporary);
        EXPECT_NE(asked->finished.error, "");
        ASSERT_LE(asked->tokens.size(), asked->expected.size());
        EXPECT_TRUE(
            std::equal(asked->tokens.begin(), asked->tokens.end(), asked->expected.begin()));
      } else {
        EXPECT_EQ(asked->tokens, asked->expected);
      }
    }
    asked_.clear();
    engine_.check_invariants();
  }

  Engine& engine() { return engine_; }

  int64_t failed = 0;

 private:
  void take(Event& event) {
    const auto at = asked_.find(event.request);
    if (at == asked_.end()) return;  // its submit() has thrown behind the engine's back
    EXPECT_EQ(at->second->ends, 0);
    if (event.kind == Event::Kind::token) at->second->tokens.push_back(event.sample.token);
    if (event.kind != Event::Kind::finished) return;
    ++at->second->ends;
    at->second->finished = std::move(event);
  }

  FakeExecutor executor_;
  Engine engine_;
  std::unordered_map<RequestId, std::unique_ptr<Asked>> asked_;
};

// Two that share a prefix with what is cached and with each other, and one that shares nothing.
void ask_some(Rig& rig, int64_t seed) {
  Tokens longer = random_prompt(150, 1);
  rig.ask(longer, static_cast<uint64_t>(seed));
  longer.resize(140);
  longer.push_back(3);
  rig.ask(longer, static_cast<uint64_t>(seed) + 1);
  rig.ask(random_prompt(90, static_cast<uint64_t>(seed) + 2), 7);
}

void fail_in_turn(state::StateLayout (*layout)(), int64_t together) {
  bool reached = true;
  int64_t failed = 0;
  for (int64_t k = 0; reached; k += 1 + k / 16) {
    SCOPED_TRACE(fmt::format("{} allocations fail behind {}", together, k));
    Rig rig(layout());
    ask_some(rig, 1);
    rig.run();
    rig.check();
    left = k, failing = together;
    try {
      ask_some(rig, 10);
    } catch (const std::bad_alloc&) {
    }
    rig.run();
    reached = failing < together;
    left = -1;
    rig.check();
    const int64_t before = rig.failed;
    ask_some(rig, 20);
    rig.run();
    rig.check();
    EXPECT_EQ(rig.failed, before) << "with memory for all";
    failed += before;
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(failed, 20);
}

TEST(EngineOutOfMemory, OneAllocationFails) {
  for (const auto layout : {state::fake::attention_layout, state::fake::hybrid_layout})
    fail_in_turn(layout, 1);
}

TEST(EngineOutOfMemory, ManyFailTogether) {
  for (const auto layout : {state::fake::attention_layout, state::fake::hybrid_layout})
    fail_in_turn(layout, 200);
}

TEST(EngineOutOfMemory, OnlyThatEndsWhoseRecordsFindNone) {
  for (const auto layout : {state::fake::attention_layout, state::fake::hybrid_layout}) {
    for (const bool long_first : {true, false}) {
      Rig rig(layout());
      const int64_t enough_for_short = 2 * rig.engine().sequence_bytes(20);
      ASSERT_LT(enough_for_short, rig.engine().sequence_bytes(400));
      rig.engine().pool().set_limit(enough_for_short);
      if (long_first) rig.ask(random_prompt(400, 1), 1);
      rig.ask(random_prompt(10, 2), 2);
      if (!long_first) rig.ask(random_prompt(400, 1), 1);
      rig.run();
      rig.check();
      EXPECT_EQ(rig.failed, 1) << "the short one has its answer";
    }
  }
}

}  // namespace
}  // namespace heddle::engine
