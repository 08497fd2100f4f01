#pragma once
// An executor over the fake model (fake_model.h): every record that a step reads is checked against
// the whole text before it, and the token that it chooses is a known function of that text and the
// seed. An engine that resumes, forks or commits a wrong state is found out by one or the other.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "engine/executor.h"
#include "test/support/fake_model.h"

namespace heddle::test {

class FakeExecutor : public engine::Executor {
 public:
  static constexpr int64_t kVocabulary = 1000;

  // Of a layout whose part 0 keeps every record as it is.
  explicit FakeExecutor(state::StateLayout layout) : layout_(std::move(layout)) {}
  const state::StateLayout& layout() const override { return layout_; }
  int64_t vocab_size() const override { return kVocabulary; }
  int64_t context_length() const override { return 1 << 20; }

  // The token after a text.
  static int32_t choice(std::span<const int32_t> text, const engine::SamplingParams& sampling) {
    const uint64_t seed = sampling.temperature == 0 ? 0 : sampling.seed;
    return static_cast<int32_t>(hash64(std::as_bytes(text), seed) % kVocabulary);
  }
  // The log probability of the last token of a text.
  static float logprob(std::span<const int32_t> text) {
    return -static_cast<float>(hash64(std::as_bytes(text), 77) % 1000) / 8;
  }

  Result<std::span<engine::RowOutput>> step(state::StepBatch& step,
                                            std::span<const engine::RowRequest> requests) override {
    ++steps;
    if (steps == failing_step) return fail("no memory for step {}", steps);
    const std::vector<std::vector<int32_t>> texts = run(step);
    outputs_.assign(requests.size(), {});
    for (size_t i = 0; i < requests.size(); ++i) {
      const engine::RowRequest& request = requests[i];
      const auto row = step.rows()[static_cast<size_t>(request.row)];
      std::vector<int32_t> text = texts[static_cast<size_t>(row)];
      engine::RowOutput& output = outputs_[i];
      engine::Sample sample;
      sample.token = request.given >= 0 ? request.given : choice(text, *request.sampling);
      if (request.logits) output.logits = {static_cast<float>(sample.token)};
      text.push_back(sample.token);
      sample.logprob = logprob(text);
      output.sample = sample;
      if (std::ssize(text) == failing_row) output.sample = fail("no number");
      counted_tokens += std::ssize(request.seen->seen());
    }
    for (int64_t i = 0; i < step.segments(); ++i) {
      const int64_t before = step.sequence(i).position() + step.segment(i).committed();
      step.commit(i, engine::accepted_path(step, i, requests, outputs_));
      accepted_drafts += step.sequence(i).position() - before;
    }
    return std::span(outputs_);
  }

  int64_t steps = 0;
  int64_t failing_step = 0;  // the number of the one that fails; 0: none
  int64_t failing_row = 0;   // that many tokens into a text its row fails; 0: none
  int64_t accepted_drafts = 0;
  int64_t counted_tokens = 0;  // that penalties were shown

 private:
  // The whole text up to each row.
  std::vector<std::vector<int32_t>> run(const state::StepBatch& step) {
    std::vector<std::vector<int32_t>> texts;
    for (int64_t i = 0; i < step.segments(); ++i) {
      const state::Segment& segment = step.segment(i);
      std::vector<int32_t> before;
      if (segment.start > 0) {
        const auto found = texts_.find(state::fake::last_record(layout_, step, i));
        EXPECT_NE(found, texts_.end()) << "a state that was never computed";
        if (found != texts_.end()) before = found->second;
        EXPECT_EQ(std::ssize(before), segment.start);
      }
      // The whole of a state that is new, and of every one now and then: a sequence must not be
      // able to write into another's.
      const bool goes_on = ends_[&step.sequence(i)] == segment.start;
      ends_[&step.sequence(i)] = segment.start + segment.length;
      if (!goes_on || steps % 8 == 0) {
        EXPECT_EQ(state::fake::check_segment(layout_, step, i, before), "");
      }
      state::fake::run_segment(layout_, step, i, before);
      for (int64_t row = 0; row < segment.length; ++row) {
        const int64_t parent = segment.parent(row);
        std::vector<int32_t> text =
            parent < 0 ? before : texts[static_cast<size_t>(segment.row + parent)];
        text.push_back(step.tokens()[static_cast<size_t>(segment.row + row)]);
        texts_[state::fake::expected_record(layout_, 0, text)] = text;
        texts.push_back(std::move(text));
      }
    }
    return texts;
  }

  state::StateLayout layout_;
  std::map<std::vector<std::byte>, std::vector<int32_t>> texts_;  // by the last token's record
  std::map<const state::SequenceState*, int64_t> ends_;           // where its last step has ended
  std::vector<engine::RowOutput> outputs_;
};

}  // namespace heddle::test
