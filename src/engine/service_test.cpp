// The engine's thread: requests from many threads, readers that are slow or leave, steps that fail.
#include "engine/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "engine/executor.h"

namespace heddle::engine {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

// Every token is the number of the request's seed. A step waits while the gate is shut.
class GatedExecutor : public Executor {
 public:
  GatedExecutor() {
    state::StatePart part;
    part.name = "k";
    part.strip = 1;
    layout_ = *state::StateLayout::make({{part}});
  }
  const state::StateLayout& layout() const override { return layout_; }
  int64_t vocab_size() const override { return 100; }
  int64_t context_length() const override { return 1 << 20; }
  Result<std::span<RowOutput>> step(state::StepBatch& step,
                                    std::span<const RowRequest> requests) override {
    ++steps;
    while (shut) std::this_thread::yield();
    if (fails) return fail("no memory");
    for (int64_t i = 0; i < step.segments(); ++i) step.commit(i);
    outputs_.assign(requests.size(), {});
    for (size_t i = 0; i < requests.size(); ++i)
      outputs_[i].sample->token = static_cast<int32_t>(requests[i].sampling->seed % 100);
    return std::span(outputs_);
  }

  std::atomic<int64_t> steps{0};
  std::atomic<bool> shut{false};
  std::atomic<bool> fails{false};

 private:
  state::StateLayout layout_;
  std::vector<RowOutput> outputs_;
};

Request request_of(int64_t max_tokens, uint64_t seed = 1) {
  Request request;
  request.prompt = {1, 2, 3};
  request.max_tokens = max_tokens;
  request.sampling.seed = seed;
  return request;
}

// Tokens until the end, and the event that ends them.
struct Read {
  std::vector<int32_t> tokens;
  Event finished;
};
Read read(RequestStream& stream) {
  Read result;
  while (true) {
    Event event = stream.next();
    if (event.kind == Event::Kind::finished) {
      result.finished = std::move(event);
      return result;
    }
    result.tokens.push_back(event.sample.token);
  }
}

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() { options_.max_unread_events = 10; }
  ~ServiceTest() override { executor_.shut = false; }
  void start() { service_ = std::make_unique<EngineService>(executor_, options_); }
  std::vector<std::unique_ptr<RequestStream>> ask(Request request) {
    auto streams = service_->submit(std::move(request));
    EXPECT_TRUE(streams.has_value());
    return std::move(*streams);
  }
  GatedExecutor executor_;
  EngineOptions options_;
  std::unique_ptr<EngineService> service_;
};

TEST_F(ServiceTest, AnswersManyThreadsEachItsOwn) {
  start();
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (uint64_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 5; ++i) {
        const auto streams = ask(request_of(7, 10 * t + i));
        const Read answer = read(*streams.front());
        const std::vector<int32_t> expected(7, static_cast<int32_t>(10 * t + i));
        right += answer.tokens == expected && answer.finished.reason == FinishReason::length;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 40);
  EXPECT_EQ(service_->metrics().requests_finished[static_cast<size_t>(FinishReason::length)], 40);
}

TEST_F(ServiceTest, AStreamForEveryChoiceAndOneMailboxForAll) {
  start();
  Request request = request_of(4, 5);
  request.choices = 3;
  const auto mailbox = std::make_shared<Mailbox>();
  auto streams = service_->submit(std::move(request), mailbox);
  ASSERT_TRUE(streams);
  ASSERT_EQ(streams->size(), 3u);
  std::set<RequestId> ids;
  for (int64_t choice = 0; choice < 3; ++choice) {
    RequestStream& stream = *(*streams)[static_cast<size_t>(choice)];
    ids.insert(stream.id());
    const auto token = static_cast<int32_t>(choice_seed(5, choice) % 100);
    EXPECT_EQ(read(stream).tokens, std::vector<int32_t>(4, token));
  }
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_GT(mailbox->wait(0, milliseconds(0)), 0u);
}

TEST_F(ServiceTest, AChoiceThatIsDroppedIsCancelledAloneAmongItsLike) {
  executor_.shut = true;
  start();
  Request request = request_of(8);
  request.choices = 2;
  auto streams = ask(std::move(request));
  streams.erase(streams.begin());
  executor_.shut = false;
  EXPECT_EQ(read(*streams.front()).tokens.size(), 8u);
  service_->call([](Engine& engine) { engine.check_invariants(); });
  const EngineMetrics metrics = service_->metrics();
  EXPECT_EQ(metrics.requests_finished[static_cast<size_t>(FinishReason::cancelled)], 1);
  EXPECT_EQ(metrics.requests_finished[static_cast<size_t>(FinishReason::length)], 1);
}

TEST_F(ServiceTest, AReaderThatFallsBehindLosesItsAnswerAndNobodyElses) {
  start();
  const auto slow = ask(request_of(100000, 1));
  const auto good = ask(request_of(8, 2));
  EXPECT_EQ(read(*good.front()).tokens.size(), 8u);
  while (service_->metrics().running > 0) std::this_thread::yield();
  const Read answer = read(*slow.front());
  EXPECT_EQ(answer.tokens.size(), 10u);
  EXPECT_EQ(answer.finished.reason, FinishReason::error);
  EXPECT_THAT(answer.finished.error, HasSubstr("was not read"));
}

TEST_F(ServiceTest, AStepThatFailsIsToldAndTheNextIsRun) {
  start();
  executor_.fails = true;
  const auto failed = ask(request_of(3));
  const Read answer = read(*failed.front());
  EXPECT_EQ(answer.finished.reason, FinishReason::error);
  EXPECT_TRUE(answer.finished.temporary);
  EXPECT_EQ(answer.finished.error, "no memory");
  executor_.fails = false;
  const auto next = ask(request_of(3));
  EXPECT_EQ(read(*next.front()).tokens.size(), 3u);
}

TEST_F(ServiceTest, ARefusalIsGivenBackAndLeavesNothing) {
  start();
  Request request = request_of(3);
  request.prompt = {100};
  const auto refused = service_->submit(std::move(request));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().parameter, "prompt");
  EXPECT_TRUE(service_->drain(milliseconds(10000)));
  const auto late = service_->submit(request_of(3));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().kind, Refusal::Kind::shutting_down);
}

TEST_F(ServiceTest, DrainCancelsWhatDoesNotEndInTime) {
  options_.max_unread_events = 1 << 20;
  start();
  const auto endless = ask(request_of(1 << 19));
  EXPECT_FALSE(service_->drain(milliseconds(1)));
  EXPECT_EQ(read(*endless.front()).finished.reason, FinishReason::cancelled);
  EXPECT_TRUE(service_->draining());
}

}  // namespace
}  // namespace heddle::engine
