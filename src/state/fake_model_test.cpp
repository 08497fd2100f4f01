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
  for (size_t i = 0; i < layout.groups.size(); ++i) {
    const GroupSnapshot& group = snapshot.groups[i];
    for (const int64_t part : layout.groups[i].parts) {
      const PartPlace& place = layout.place(part);
      // Blocks where a part begins with a record (or value) that position 70 can see.
      if (layout.part(part).growth == Growth::per_token) {
        EXPECT_TRUE(flip_is_seen(group.pages[1], place.offset));
      }
      if (group.summary) {
        EXPECT_TRUE(flip_is_seen(group.summary, place.summary_offset + 2));
      }
      if (group.open) {
        EXPECT_TRUE(flip_is_seen(group.open, place.offset));
      }
    }
  }
  // The first page is packed: where its head says.
  EXPECT_TRUE(snapshot.groups[0].pages[0].packed());
  EXPECT_TRUE(flip_is_seen(snapshot.groups[0].pages[0], PackedHead::bytes(4)));
  std::vector<int32_t> others = tokens;
  others[0] = 77;
  EXPECT_NE(check_snapshot(layout, snapshot, others), "");
}

}  // namespace heddle::state::fake
