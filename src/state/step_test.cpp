#include "state/step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <new>
#include <numeric>

#include "test/support/fake_model.h"

namespace heddle::state {
namespace {

std::vector<int32_t> counting(int64_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<int32_t> list(std::span<const int32_t> values) {
  return {values.begin(), values.end()};
}

class StepBatchTest : public testing::Test {
 protected:
  SequenceState sequence(int64_t position) {
    SequenceState state(layout_, pool_);
    if (position > 0) {
      state.begin_step(position, 0);
      state.commit();
    }
    return state;
  }
  StateLayout layout_ = fake::full_layout();
  BlockPool pool_;
  StepBatch step_{layout_};
};

TEST_F(StepBatchTest, PromptsDecodingAndDraftsStandInOneBatch) {
  SequenceState prompt = sequence(0), decoding = sequence(70), tree = sequence(3);
  const std::vector<int32_t> drafts = {50, 51, 52};
  std::vector<int32_t> parents = {0, 0, 2};
  EXPECT_EQ(step_.add(prompt, counting(4)), 0);
  EXPECT_EQ(step_.add(tree, counting(1, 40), {0, 4}, {drafts, parents}), 1);
  parents = {7, 7, 7};  // copied: the caller's may go
  EXPECT_EQ(step_.add(decoding, counting(1, 60), {0, 1}), 2);
  const BatchView batch = step_.batch();
  EXPECT_EQ(batch.tokens, 9);
  EXPECT_EQ(list(step_.tokens()), (std::vector<int32_t>{0, 1, 2, 3, 40, 50, 51, 52, 60}));
  EXPECT_EQ(list(batch.positions), (std::vector<int32_t>{0, 1, 2, 3, 3, 4, 4, 5, 70}));
  EXPECT_EQ(list(step_.rows()), (std::vector<int32_t>{4, 5, 6, 7, 8}));
  ASSERT_EQ(batch.segments.size(), 3u);
  EXPECT_EQ(batch.segments[1].row, 4);
  EXPECT_EQ(batch.segments[1].start, 3);
  EXPECT_EQ(batch.segments[1].drafts, 3);
  EXPECT_EQ(list(batch.segments[1].parents), (std::vector<int32_t>{0, 0, 2}));
  EXPECT_EQ(batch.segments[2].row, 8);
}

TEST_F(StepBatchTest, WhatFindsNoMemoryLeavesTheBatchAsItWas) {
  SequenceState first = sequence(0), second = sequence(0), third = sequence(0);
  step_.add(first, counting(3), {2, 1});
  pool_.set_limit(pool_.live_bytes());
  const std::vector<int32_t> drafts = {50, 51}, parents = {0, 0};
  EXPECT_THROW(step_.add(second, counting(1), {0, 3}, {drafts, parents}), std::bad_alloc);
  pool_.set_limit(std::numeric_limits<int64_t>::max());
  EXPECT_EQ(step_.add(third, counting(2, 7), {1, 1}), 1);
  EXPECT_EQ(list(step_.tokens()), (std::vector<int32_t>{0, 1, 2, 7, 8}));
  EXPECT_EQ(list(step_.rows()), (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(step_.segment(1).row, 3);
  EXPECT_EQ(step_.state(0).at(1, 0).page(0), third.part_view(0).page(0));
  step_.commit(0);
  step_.commit(1);
  EXPECT_EQ(first.position(), 3);
  EXPECT_EQ(second.position(), 0);
  EXPECT_EQ(third.position(), 2);
}

TEST_F(StepBatchTest, EveryLayerSeesItsOwnPartsOfEverySequence) {
  SequenceState a = sequence(3), b = sequence(130);
  step_.add(a, counting(2));
  step_.add(b, counting(1));
  for (int64_t layer = 0; layer + 1 < std::ssize(layout_.first_part); ++layer) {
    const StateView state = step_.state(layer);
    const int64_t first = layout_.first_part[static_cast<size_t>(layer)];
    for (int64_t part = first; part < layout_.first_part[static_cast<size_t>(layer) + 1]; ++part) {
      for (int64_t segment = 0; segment < 2; ++segment) {
        const PartView want = step_.sequence(segment).part_view(part);
        const PartView got = state.at(segment, part - first);
        if (layout_.part(part).growth == Growth::folded) {
          EXPECT_NE(want.open(), nullptr) << part;
          EXPECT_EQ(got.open(), want.open()) << part;
          EXPECT_EQ(got.next_summary(), want.next_summary()) << part;
        } else {
          const Segment& s = step_.segment(segment);
          const int64_t page = (s.start + s.length - 1) / layout_.part(part).page_records;
          EXPECT_NE(want.page(page), nullptr) << part;
          EXPECT_EQ(got.page(page), want.page(page)) << part;
        }
      }
    }
  }
}

TEST_F(StepBatchTest, CommitsAPathOfDrafts) {
  SequenceState a = sequence(60), b = sequence(62);
  const std::vector<int32_t> drafts = {1, 2, 3};
  const int32_t kept[] = {0, 1, 2};
  step_.add(a, counting(1), {}, {drafts, {}});
  step_.add(b, counting(1), {}, {});
  step_.commit(0, kept);
  step_.commit(1);
  EXPECT_EQ(a.position(), 64);
  EXPECT_EQ(b.position(), 63);
}

TEST_F(StepBatchTest, ClearedItIsAsNew) {
  SequenceState a = sequence(3), b = sequence(9);
  step_.add(a, counting(5), {0, 5});
  step_.commit(0);
  step_.clear();
  EXPECT_EQ(step_.segments(), 0);
  EXPECT_EQ(step_.batch().tokens, 0);
  EXPECT_TRUE(step_.rows().empty());
  EXPECT_EQ(step_.add(b, counting(1)), 0);
  EXPECT_EQ(step_.batch().positions[0], 9);
  EXPECT_EQ(step_.state(0).at(0, 0).page(0), b.part_view(0).page(0));
}

using StepBatchDeathTest = StepBatchTest;

TEST_F(StepBatchDeathTest, RowsAndParentsOutsideTheSegmentAreBugs) {
  SequenceState a = sequence(0);
  EXPECT_DEATH(step_.add(a, counting(2), {1, 2}), "rows 1 to 3 of 2");
  const std::vector<int32_t> drafts = {1, 2};
  const std::vector<int32_t> later = {0, 2};
  EXPECT_DEATH(step_.add(a, counting(1), {}, {drafts, later}), "row 2 follows row 2");
}

}  // namespace
}  // namespace heddle::state
