// The engine over the fake model, whose executor checks every record that a step reads and whose
// text is known: whatever is shared, cut, cancelled or fails, answers are those of a cold run.
#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/rng.h"
#include "test/support/fake_executor.h"

namespace heddle::engine {
namespace {

using test::FakeExecutor;
using testing::HasSubstr;
using Tokens = std::vector<int32_t>;

Tokens random_prompt(int64_t count, uint64_t seed) {
  Rng rng(seed);
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<int32_t>(rng.below(FakeExecutor::kVocabulary)));
  return tokens;
}

Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Request request_of(Tokens prompt, int64_t max_tokens, uint64_t seed = 1) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.seed = seed;
  return request;
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

struct Answer {
  Tokens tokens;
  std::vector<Event> scores;
  Event finished;
  bool ended = false;
};

// An engine over a layout, and what it has answered.
class Rig {
 public:
  explicit Rig(state::StateLayout layout, const EngineOptions& options = {})
      : executor(std::move(layout)), engine(executor, options) {}

  RequestId ask(Request request) {
    const auto id = engine.submit(std::move(request));
    EXPECT_TRUE(id.has_value()) << (id ? "" : id.error().message);
    return id.value_or(0);
  }
  void step() {
    for (Event& event : engine.step()) {
      Answer& answer = answers[event.request];
      EXPECT_FALSE(answer.ended) << "an event behind the last one of " << event.request;
      switch (event.kind) {
        case Event::Kind::token:
          answer.tokens.push_back(event.sample.token);
          break;
        case Event::Kind::prompt_score:
          answer.scores.push_back(std::move(event));
          break;
        case Event::Kind::finished:
          answer.ended = true;
          answer.finished = std::move(event);
          break;
      }
    }
    engine.check_invariants();
  }
  void run() {
    for (int64_t steps = 0; !engine.idle(); ++steps) {
      ASSERT_LT(steps, 20000) << "it never ends";
      step();
    }
  }
  int64_t computed() const { return engine.metrics().computed_prompt_tokens; }

  FakeExecutor executor;
  Engine engine;
  std::map<RequestId, Answer> answers;
};

struct Layout {
  const char* name;
  state::StateLayout (*make)();
};
constexpr Layout kAttention{"attention", state::fake::attention_layout};
constexpr Layout kHybrid{"hybrid", state::fake::hybrid_layout};
constexpr Layout kFold{"fold", state::fake::fold_layout};
constexpr Layout kSliding{"sliding", state::fake::sliding_layout};

class EveryLayout : public testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Engine, EveryLayout, testing::Values(kAttention, kHybrid, kFold, kSliding),
                         [](const auto& test) { return std::string(test.param.name); });

// ---- choices ----

TEST_P(EveryLayout, ChoicesReadTheirPromptOnce) {
  for (const bool cache : {true, false}) {
    Rig rig(GetParam().make());
    const Tokens prompt = random_prompt(2000, 1);
    Request request = request_of(prompt, 5, 9);
    request.choices = 8;
    request.use_cache = cache;
    const RequestId first = rig.ask(std::move(request));
    rig.run();
    EXPECT_EQ(rig.computed(), 2000);
    ASSERT_EQ(rig.answers.size(), 8u);
    for (int64_t choice = 0; choice < 8; ++choice) {
      const Answer& answer = rig.answers[first + static_cast<RequestId>(choice)];
      EXPECT_EQ(answer.tokens, expected_answer(prompt, 5, choice_seed(9, choice))) << choice;
      EXPECT_EQ(answer.finished.usage.cached_tokens, choice == 0 ? 0 : 2000);
    }
    EXPECT_EQ(choice_seed(9, 0), 9u);
    EXPECT_NE(choice_seed(9, 1), choice_seed(9, 2));
  }
}

TEST_P(EveryLayout, ChoicesThatFindNoPlaceYetReadTheLastTokenAgain) {
  EngineOptions options;
  options.scheduler.max_sequences = 3;
  Rig rig(GetParam().make(), options);
  const Tokens prompt = random_prompt(300, 1);
  Request request = request_of(prompt, 4);
  request.choices = 8;
  const RequestId first = rig.ask(std::move(request));
  rig.run();
  // The first of those that come in together; the others take over its state again.
  EXPECT_EQ(rig.computed(), 300 + 2);
  for (int64_t choice = 0; choice < 8; ++choice)
    EXPECT_EQ(rig.answers[first + static_cast<RequestId>(choice)].tokens,
              expected_answer(prompt, 4, choice_seed(1, choice)));
}

TEST_P(EveryLayout, AChoiceThatIsCancelledLeavesTheOthersAlone) {
  Rig rig(GetParam().make());
  const Tokens prompt = random_prompt(1200, 1);
  Request request = request_of(prompt, 6);
  request.choices = 4;
  const RequestId first = rig.ask(std::move(request));
  rig.step();  // 512 tokens of the prompt
  rig.engine.cancel(first);
  rig.engine.cancel(first + 2);
  rig.run();
  EXPECT_EQ(rig.answers[first].finished.reason, FinishReason::cancelled);
  EXPECT_EQ(rig.answers[first + 2].finished.reason, FinishReason::cancelled);
  for (const RequestId choice : {RequestId{1}, RequestId{3}})
    EXPECT_EQ(rig.answers[first + choice].tokens,
              expected_answer(prompt, 6, choice_seed(1, static_cast<int64_t>(choice))));
  // What the first had read was not read again.
  EXPECT_EQ(rig.computed(), 1200);
}

TEST(Engine, EveryChoiceScoresItsPrompt) {
  Rig rig(state::fake::hybrid_layout());
  const Tokens prompt = random_prompt(100, 3);
  Request request = request_of(prompt, 2);
  request.choices = 2;
  request.score_prompt = true;
  request.sampling.logprobs = 0;
  const RequestId first = rig.ask(request);
  request.choices = 1;
  request.max_tokens = 0;
  const RequestId only = rig.ask(request);
  rig.run();
  EXPECT_EQ(rig.computed(), 100 + 100) << "the choices of a request read it once";
  for (const RequestId id : {first, first + 1, only}) {
    const Answer& answer = rig.answers[id];
    ASSERT_EQ(answer.scores.size(), 99u);
    for (size_t i = 0; i < 99; ++i) {
      EXPECT_EQ(answer.scores[i].position, static_cast<int64_t>(i) + 1);
      EXPECT_EQ(answer.scores[i].sample.token, prompt[i + 1]);
      EXPECT_EQ(answer.scores[i].sample.logprob,
                FakeExecutor::logprob(std::span(prompt).first(i + 2)));
    }
  }
  EXPECT_EQ(rig.answers[first + 1].tokens, expected_answer(prompt, 2, choice_seed(1, 1)));
  EXPECT_TRUE(rig.answers[only].tokens.empty());
  EXPECT_EQ(rig.answers[only].finished.reason, FinishReason::length);
}

TEST_P(EveryLayout, AChoiceThatReadsTheScoresForOthersIsCancelled) {
  for (const int64_t places : {2, 16}) {
    EngineOptions options;
    options.scheduler.max_sequences = places;
    Rig rig(GetParam().make(), options);
    const Tokens prompt = random_prompt(300, 4);
    Request request = request_of(prompt, 2);
    request.choices = 4;
    request.score_prompt = true;
    request.sampling.logprobs = 0;
    const RequestId first = rig.ask(std::move(request));
    rig.step();
    rig.step();
    rig.engine.cancel(first);
    rig.run();
    EXPECT_EQ(rig.answers[first].finished.reason, FinishReason::cancelled);
    for (RequestId choice = 1; choice < 4; ++choice) {
      const Answer& answer = rig.answers[first + choice];
      EXPECT_EQ(answer.tokens,
                expected_answer(prompt, 2, choice_seed(1, static_cast<int64_t>(choice))));
      ASSERT_EQ(answer.scores.size(), 299u) << "each is told every score once";
      for (size_t i = 0; i < answer.scores.size(); ++i) {
        EXPECT_EQ(answer.scores[i].position, static_cast<int64_t>(i) + 1);
        EXPECT_EQ(answer.scores[i].sample.logprob,
                  FakeExecutor::logprob(std::span(prompt).first(i + 2)));
      }
    }
  }
}

// ---- sharing in flight ----

// Clients with one system prompt and questions of their own. The first has run for `alone` steps
// when the others come, `together` at a time, a step apart.
void check_shared_prompt(const Layout& layout, int64_t clients, int64_t alone, int64_t together,
                         int64_t may_compute) {
  SCOPED_TRACE(fmt::format("{}: {} clients, {} steps alone, {} at a time", layout.name, clients,
                           alone, together));
  Rig rig(layout.make());
  const Tokens system = random_prompt(1000, 1);
  std::map<RequestId, Tokens> prompts;
  int64_t own = 0;
  for (int64_t client = 0; client < clients; ++client) {
    const Tokens question = random_prompt(20 + client % 17, 100 + static_cast<uint64_t>(client));
    own += std::ssize(question);
    const RequestId id = rig.ask(request_of(system + question, 3));
    prompts[id] = system + question;
    if (client % together == together - 1) rig.step();
    for (int64_t step = 0; step < alone && client == 0; ++step) rig.step();
  }
  rig.run();
  EXPECT_LE(rig.computed(), may_compute + own);
  for (const auto& [id, prompt] : prompts)
    EXPECT_EQ(rig.answers[id].tokens, expected_answer(prompt, 3, 1));
}

TEST_P(EveryLayout, ClientsThatArriveTogetherReadTheirSystemPromptOnce) {
  check_shared_prompt(GetParam(), 64, 0, 64, 1000);
  check_shared_prompt(GetParam(), 12, 0, 3, 1000);
  // The first is in the middle of it when the others come.
  check_shared_prompt(GetParam(), 8, 1, 8, 1000);
}

TEST_P(EveryLayout, WhereTheFirstHasPassedTheirPartingOthersReadItOnceMore) {
  // With attention alone a state serves every position that it has passed.
  const bool trims = GetParam().make == state::fake::attention_layout;
  check_shared_prompt(GetParam(), 8, 3, 8, trims ? 1000 : 2000);
}

TEST_P(EveryLayout, TheSamePromptFromManyIsReadOnce) {
  Rig rig(GetParam().make());
  const Tokens prompt = random_prompt(700, 1);
  for (uint64_t seed = 1; seed <= 5; ++seed) rig.ask(request_of(prompt, 3, seed));
  rig.run();
  EXPECT_EQ(rig.computed(), 700);
  for (const auto& [id, answer] : rig.answers)
    EXPECT_EQ(answer.tokens, expected_answer(prompt, 3, id));
}

TEST_P(EveryLayout, WhoReadsForOthersMayLeave) {
  Rig rig(GetParam().make());
  const Tokens system = random_prompt(1500, 1);
  std::vector<RequestId> ids;
  std::vector<Tokens> prompts;
  int64_t own = 0;
  for (uint64_t client = 0; client < 6; ++client) {
    prompts.push_back(system + random_prompt(30, 50 + client));
    own += 30;
    ids.push_back(rig.ask(request_of(prompts.back(), 3)));
  }
  rig.step();
  rig.engine.cancel(ids[0]);
  rig.step();
  rig.engine.cancel(ids[1]);
  rig.run();
  EXPECT_LE(rig.computed(), 1500 + own);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i < 2) {
      EXPECT_EQ(rig.answers[ids[i]].finished.reason, FinishReason::cancelled);
    } else {
      EXPECT_EQ(rig.answers[ids[i]].tokens, expected_answer(prompts[i], 3, 1));
    }
  }
}

TEST_P(EveryLayout, NothingIsSharedBetweenKeysOrWhereItIsNotWanted) {
  Rig rig(GetParam().make());
  const Tokens prompt = random_prompt(400, 1);
  for (const char* key : {"a", "b"}) {
    Request request = request_of(prompt, 2);
    request.isolation_key = key;
    rig.ask(std::move(request));
  }
  for (int i = 0; i < 2; ++i) {
    Request request = request_of(prompt, 2);
    request.use_cache = false;
    rig.ask(std::move(request));
  }
  rig.run();
  EXPECT_EQ(rig.computed(), 4 * 400);
  for (const auto& [id, answer] : rig.answers)
    EXPECT_EQ(answer.finished.usage.cached_tokens, 0) << id;
}

// ---- a step that fails ----

TEST_P(EveryLayout, AStepThatFailsEndsItsRequestsAndNoOthers) {
  Rig rig(GetParam().make());
  const Tokens system = random_prompt(600, 1);
  const Tokens first = system + random_prompt(20, 2);
  const Tokens second = system + random_prompt(20, 3);
  const RequestId reader = rig.ask(request_of(first, 3));
  const RequestId follower = rig.ask(request_of(second, 3));
  const RequestId other = rig.ask(request_of(random_prompt(40, 4), 3));
  rig.executor.failing_step = 2;
  rig.run();
  for (const RequestId id : {reader, other}) {
    EXPECT_EQ(rig.answers[id].finished.reason, FinishReason::error);
    EXPECT_THAT(rig.answers[id].finished.error, HasSubstr("no memory for step 2"));
    EXPECT_TRUE(rig.answers[id].finished.temporary);
  }
  // It waited for the first, and reads the prompt itself.
  EXPECT_EQ(rig.answers[follower].tokens, expected_answer(second, 3, 1));
  const RequestId later = rig.ask(request_of(first, 3));
  rig.run();
  EXPECT_EQ(rig.answers[later].tokens, expected_answer(first, 3, 1));
}

TEST(Engine, ARowWithoutANumberEndsItsOwnAnswerOnly) {
  Rig rig(state::fake::hybrid_layout());
  const Tokens good = random_prompt(20, 1);
  const RequestId bad = rig.ask(request_of(random_prompt(80, 2), 5));
  const RequestId other = rig.ask(request_of(good, 5));
  rig.executor.failing_row = 83;  // the third token of the answer
  rig.run();
  EXPECT_EQ(rig.answers[bad].tokens.size(), 2u);
  EXPECT_EQ(rig.answers[bad].finished.reason, FinishReason::error);
  EXPECT_FALSE(rig.answers[bad].finished.temporary);
  EXPECT_EQ(rig.answers[bad].finished.error, "no number");
  EXPECT_EQ(rig.answers[other].tokens, expected_answer(good, 5, 1));
}

// ---- drafts ----

TEST_P(EveryLayout, ThePathOfDraftsThatIsChosenIsKept) {
  FakeExecutor executor(GetParam().make());
  state::BlockPool pool;
  state::SequenceState sequence(executor.layout(), pool);
  state::StepBatch step(executor.layout());
  SamplingParams sampling;
  const TokenCounts seen;
  Tokens text = random_prompt(61, 1);
  std::vector<RowRequest> requests;
  step.add(sequence, text, {60, 1});
  requests.push_back({.row = 0, .sampling = &sampling, .seen = &seen});
  auto outputs = executor.step(step, requests);
  ASSERT_TRUE(outputs);
  for (int round = 0; round < 30; ++round) {
    const int32_t known = outputs->back().sample->token;
    const Tokens right = expected_answer(text + Tokens{known}, 3, sampling.seed);
    // A wrong child before the right one, and behind the right path a wrong leaf.
    const int64_t room = std::min<int64_t>(4, sequence.tree_room(1));
    const Tokens drafts = {999 - right[0], right[0], right[1], 999 - right[2]};
    const Tokens parents = {0, 0, 2, 3};
    const auto count = static_cast<size_t>(room);
    requests.clear();
    step.clear();
    step.add(sequence, std::span(&known, 1), {0, 1 + room},
             {std::span(drafts).first(count), std::span(parents).first(count)});
    for (int64_t row = 0; row <= room; ++row)
      requests.push_back({.row = row, .sampling = &sampling, .seen = &seen});
    outputs = executor.step(step, requests);
    ASSERT_TRUE(outputs);
    const int64_t kept = std::clamp<int64_t>(room - 1, 0, 2);
    text = text + Tokens{known};
    text.insert(text.end(), right.begin(), right.begin() + kept);
    ASSERT_EQ(sequence.position(), std::ssize(text)) << "round " << round;
    ASSERT_EQ(state::fake::check_snapshot(executor.layout(), sequence.snapshot(), text), "");
    // Row 1 + d is draft d: the last one kept is drafts[kept].
    outputs = outputs->first(static_cast<size_t>(kept == 0 ? 1 : kept + 2));
  }
  EXPECT_GT(executor.accepted_drafts, 30);
}

// ---- places, bytes, order ----

TEST(Engine, AdmitsByBytesInOrderOfArrival) {
  Rig probe(state::fake::hybrid_layout());
  EngineOptions options;
  const int64_t small = probe.engine.sequence_bytes(100 + 20);
  const int64_t large = probe.engine.sequence_bytes(1000 + 20);
  options.state_bytes = large + small;
  Rig rig(state::fake::hybrid_layout(), options);
  const RequestId a = rig.ask(request_of(random_prompt(100, 1), 20));
  const RequestId b = rig.ask(request_of(random_prompt(1000, 2), 20));
  const RequestId c = rig.ask(request_of(random_prompt(1000, 3), 20));
  const RequestId d = rig.ask(request_of(random_prompt(100, 4), 20));
  rig.step();
  EXPECT_EQ(rig.engine.metrics().running, 2);
  EXPECT_EQ(rig.engine.metrics().state_reserved_bytes, large + small);
  std::vector<RequestId> order;
  while (!rig.engine.idle()) {
    rig.step();
    // There is room for d when a has ended, but c came first.
    if (!rig.answers[d].tokens.empty()) {
      EXPECT_TRUE(rig.answers[b].ended);
    }
    for (const auto& [id, answer] : rig.answers)
      if (answer.ended && std::find(order.begin(), order.end(), id) == order.end())
        order.push_back(id);
  }
  EXPECT_EQ(order, (std::vector<RequestId>{a, b, d, c}));
  const auto refused = rig.engine.submit(request_of(random_prompt(3000, 5), 20));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, Refusal::Kind::too_large);
}

TEST(Engine, AFullQueueRefusesAndCountsIt) {
  EngineOptions options;
  options.max_waiting = 2;
  Rig rig(state::fake::attention_layout(), options);
  rig.ask(request_of(random_prompt(5, 1), 2));
  rig.ask(request_of(random_prompt(5, 2), 2));
  const auto refused = rig.engine.submit(request_of(random_prompt(5, 3), 2));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, Refusal::Kind::queue_full);
  EXPECT_EQ(rig.engine.metrics().requests_refused, 1);
  rig.run();
  EXPECT_EQ(rig.answers.size(), 2u);
}

TEST(Engine, AWaitingRequestIsCancelledBehindOneThatDoesNotFit) {
  EngineOptions options;
  options.scheduler.max_sequences = 1;
  Rig rig(state::fake::attention_layout(), options);
  rig.ask(request_of(random_prompt(10, 1), 50));
  rig.ask(request_of(random_prompt(10, 2), 50));
  const RequestId third = rig.ask(request_of(random_prompt(10, 3), 50));
  rig.step();
  rig.engine.cancel(third);
  rig.step();
  EXPECT_TRUE(rig.answers[third].ended);
  EXPECT_EQ(rig.answers[third].finished.reason, FinishReason::cancelled);
  EXPECT_EQ(rig.engine.metrics().waiting, 1);
}

TEST_P(EveryLayout, TheCacheKeepsOutOfWhatRunningSequencesHaveReserved) {
  Rig probe(GetParam().make());
  EngineOptions options;
  options.state_bytes = 3 * probe.engine.sequence_bytes(400 + 10);
  options.scheduler.max_sequences = 3;
  Rig rig(GetParam().make(), options);
  const Tokens system = random_prompt(150, 1);
  std::map<RequestId, Tokens> prompts;
  for (uint64_t i = 0; i < 20; ++i) {
    const Tokens prompt = system + random_prompt(100 + 10 * static_cast<int64_t>(i % 15), 10 + i);
    prompts[rig.ask(request_of(prompt, 10))] = prompt;
  }
  while (!rig.engine.idle()) {
    rig.step();
    const EngineMetrics metrics = rig.engine.metrics();
    EXPECT_LE(metrics.cache_bytes + metrics.state_reserved_bytes, options.state_bytes);
    EXPECT_EQ(metrics.cache_unreachable_bytes, 0);
  }
  EXPECT_GT(rig.engine.metrics().cache_evicted_points + rig.engine.metrics().cache_evicted_blocks,
            0);
  for (const auto& [id, prompt] : prompts)
    EXPECT_EQ(rig.answers[id].tokens, expected_answer(prompt, 10, 1));
}

// ---- cuts ----

TEST(Engine, APromptResumesAtTheBoundariesOfTheOneBefore) {
  Rig rig(state::fake::hybrid_layout());
  const Tokens system = random_prompt(90, 1);
  Request request = request_of(system + random_prompt(40, 2), 3);
  request.checkpoints = {90};
  rig.ask(request);
  rig.run();
  const Tokens edited = system + random_prompt(40, 3);
  const RequestId next = rig.ask(request_of(edited, 3));
  rig.run();
  EXPECT_EQ(rig.answers[next].finished.usage.cached_tokens, 90);
  EXPECT_EQ(rig.answers[next].tokens, expected_answer(edited, 3, 1));
  // The same again: all but its last token; and behind its answer, which is a state of its own.
  const RequestId again = rig.ask(request_of(edited, 3));
  rig.run();
  EXPECT_EQ(rig.answers[again].finished.usage.cached_tokens, 129);
  const RequestId turn = rig.ask(request_of(edited + rig.answers[again].tokens + Tokens{7, 8}, 3));
  rig.run();
  EXPECT_EQ(rig.answers[turn].finished.usage.cached_tokens, 132);
}

TEST(Engine, TokensAreCountedForPenaltiesOnly) {
  Rig rig(state::fake::attention_layout());
  rig.ask(request_of(random_prompt(50, 1), 4));
  rig.run();
  EXPECT_EQ(rig.executor.counted_tokens, 0);
  Request request = request_of({5, 6, 5}, 2);
  request.sampling.presence_penalty = 1;
  rig.ask(std::move(request));
  rig.run();
  EXPECT_EQ(rig.executor.counted_tokens, 2 + 3);  // prompt; and the first token of the answer
}

// ---- all at once ----

// Prompts that share beginnings arrive and leave at any time, under little memory; a step may fail.
void check_random_load(const Layout& layout, uint64_t seed) {
  SCOPED_TRACE(fmt::format("seed {}", seed));
  Rng rng(seed);
  EngineOptions options;
  options.scheduler.step_tokens = 1 + rng.below(120);
  options.scheduler.max_sequences = 1 + rng.below(6);
  Rig probe(layout.make());
  options.state_bytes = probe.engine.sequence_bytes(400) * (1 + rng.below(4));
  options.prefix_cache = rng.below(6) != 0;
  Rig rig(layout.make(), options);
  if (rng.below(3) == 0) rig.executor.failing_step = 1 + rng.below(40);
  const Tokens base = random_prompt(260, 1000 + seed);
  struct Asked {
    Tokens prompt;
    int64_t output = 0;
    uint64_t seed = 0;
    bool cancelled = false;
  };
  std::map<RequestId, Asked> asked;
  for (int arrival = 0; arrival < 14; ++arrival) {
    const auto shared = static_cast<size_t>(rng.below(std::ssize(base) + 1));
    Asked one;
    one.prompt = Tokens(base.begin(), base.begin() + static_cast<int64_t>(shared)) +
                 random_prompt(1 + rng.below(60), seed * 100 + static_cast<uint64_t>(rng.below(5)));
    one.output = 1 + rng.below(12);
    const uint64_t request_seed = 1 + static_cast<uint64_t>(rng.below(3));
    Request request = request_of(one.prompt, one.output, request_seed);
    request.choices = rng.below(4) == 0 ? 1 + rng.below(4) : 1;
    request.use_cache = rng.below(8) != 0;
    request.isolation_key = rng.below(5) == 0 ? "other" : "";
    request.checkpoints = {rng.below(200), rng.below(300)};
    const int64_t choices = request.choices;
    const RequestId first = rig.ask(std::move(request));
    for (int64_t choice = 0; choice < choices; ++choice) {
      one.seed = choice_seed(request_seed, choice);
      asked[first + static_cast<RequestId>(choice)] = one;
    }
    for (int64_t steps = rng.below(6); steps > 0; --steps) rig.step();
    if (rng.below(4) == 0) {
      const RequestId gone = 1 + static_cast<RequestId>(rng.below(std::ssize(asked)));
      rig.engine.cancel(gone);
      asked[gone].cancelled = true;
    }
  }
  rig.run();
  for (const auto& [id, one] : asked) {
    const Answer& answer = rig.answers[id];
    EXPECT_TRUE(answer.ended) << id;
    const Tokens whole = expected_answer(one.prompt, one.output, one.seed);
    const FinishReason reason = answer.finished.reason;
    if (reason == FinishReason::length) {
      EXPECT_EQ(answer.tokens, whole) << id;
      continue;
    }
    // Cut short, but not another text.
    EXPECT_TRUE(reason == FinishReason::cancelled ? one.cancelled : rig.executor.failing_step > 0);
    ASSERT_LE(answer.tokens.size(), whole.size());
    EXPECT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), whole.begin())) << id;
  }
}

TEST_P(EveryLayout, AnyLoadAnswersLikeAColdRun) {
  for (uint64_t seed = 1; seed <= 20; ++seed) check_random_load(GetParam(), seed);
}

}  // namespace
}  // namespace heddle::engine
