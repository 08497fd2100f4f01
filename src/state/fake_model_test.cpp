// The proof that the fake model's checks can fail.
#include "test/support/fake_model.h"

#include <gtest/gtest.h>

namespace heddle::state::fake {

TEST(FakeModel, notices_one_wrong_byte_anywhere) {
  const StateLayout layout = full_layout();
  BlockPool pool;
  std::vector<int32_t> tokens(70);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
  Sequence sequence(layout, pool);
  ASSERT_EQ(sequence.step(tokens), "");
  const Snapshot snapshot = sequence.snapshot();
  ASSERT_EQ(check_snapshot(layout, snapshot, tokens), "");
  const auto flip_is_seen = [&](const BlockRef& block, int64_t at) {
    block.data()[at] ^= std::byte{1};
    const bool seen = !check_snapshot(layout, snapshot, tokens).empty();
    block.data()[at] ^= std::byte{1};
    return seen;
  };
  for (const PartSnapshot& part : snapshot.parts) {
    // Block kinds whose first bytes belong to a record (or value) that position 70 can see.
    if (!part.pages.empty() && part.pages[0].get()->growth == Growth::per_token) {
      EXPECT_TRUE(flip_is_seen(part.pages[0], 0));
    }
    if (part.summary) {
      EXPECT_TRUE(flip_is_seen(part.summary, 2));
    }
    if (part.open) {
      EXPECT_TRUE(flip_is_seen(part.open, 0));
    }
  }
  std::vector<int32_t> others = tokens;
  others[0] = 77;
  EXPECT_NE(check_snapshot(layout, snapshot, others), "");
}

}  // namespace heddle::state::fake
