// Snapshots as bytes: what is written comes back, and anything else is refused by name.
#include "state/snapshot_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "state/snapshot_payload.h"
#include "test/support/fake_model.h"

namespace heddle::state {
namespace {

using fake::Sequence;
using testing::HasSubstr;

constexpr int64_t kPlenty = int64_t{1} << 40;

SnapshotIdentity identity_of(const StateLayout& layout) {
  SnapshotIdentity identity{.model = "fake", .weights = {0x1234, 0x5678}};
  for (size_t i = 0; i + 1 < layout.first_part.size(); ++i) {
    identity.mixers.push_back(i % 2 == 0 ? "attention" : "delta");
  }
  return identity;
}

std::vector<int32_t> counting(int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

void reseal(std::vector<std::byte>& bytes) {
  const auto body = std::span(bytes).first(bytes.size() - 16);
  const Hash128 checksum = hash128(body);
  std::memcpy(bytes.data() + body.size(), &checksum.low, 8);
  std::memcpy(bytes.data() + body.size() + 8, &checksum.high, 8);
}

RC_GTEST_PROP(SnapshotFile, saved_in_one_pool_and_loaded_in_another_goes_on_alike, ()) {
  const StateLayout layout =
      *rc::gen::element(0, 0, 1, 2) == 0 ? fake::full_layout() : fake::sliding_layout();
  const SnapshotIdentity identity = identity_of(layout);
  BlockPool pool;
  pool.set_poison(true);
  Sequence sequence(layout, pool);
  const int chunks = *rc::gen::inRange(0, 4);
  for (int i = 0; i < chunks; ++i) {
    RC_ASSERT(sequence.step(counting(*rc::gen::inRange<int64_t>(0, 180))) == "");
  }
  const int level = *rc::gen::element(0, 1, 3);
  const auto bytes =
      encode_snapshot(layout, identity, sequence.tokens(), sequence.snapshot(), level);
  BlockPool other;
  other.set_poison(true);
  auto loaded = decode_snapshot(bytes, "test", layout, identity, other, kPlenty);
  RC_ASSERT(loaded.has_value());
  RC_ASSERT(loaded->tokens == sequence.tokens());
  RC_ASSERT(fake::check_snapshot(layout, loaded->snapshot, sequence.tokens()) == "");
  RC_ASSERT(encode_snapshot(layout, identity, loaded->tokens, loaded->snapshot, level) == bytes);
  Sequence restored(layout, other, loaded->snapshot, loaded->tokens);
  for (const int64_t more : {1, 3, 70, 130}) RC_ASSERT(restored.step(counting(more)) == "");
  RC_ASSERT(restored.check() == "");
}

class SnapshotBytes : public testing::Test {
 protected:
  SnapshotBytes() {
    Sequence sequence(layout_, pool_);
    EXPECT_EQ(sequence.step(counting(70)), "");
    snapshot_ = sequence.snapshot();
    tokens_ = sequence.tokens();
    bytes_ = encode_snapshot(layout_, identity_, tokens_, snapshot_);
  }
  std::string refusal(std::span<const std::byte> bytes, const StateLayout& layout,
                      const SnapshotIdentity& identity, int64_t max_bytes = kPlenty) {
    const int64_t live = pool_.live_bytes();
    const auto loaded = decode_snapshot(bytes, "file", layout, identity, pool_, max_bytes);
    if (loaded) return "accepted";
    EXPECT_EQ(pool_.live_bytes(), live) << "a refusal leaks";
    return loaded.error().message;
  }
  std::string refusal(std::span<const std::byte> bytes) {
    return refusal(bytes, layout_, identity_);
  }
  BlockPool pool_;
  StateLayout layout_ = fake::full_layout();
  SnapshotIdentity identity_ = identity_of(layout_);
  Snapshot snapshot_;
  std::vector<int32_t> tokens_;
  std::vector<std::byte> bytes_;
};

TEST_F(SnapshotBytes, any_flipped_bit_is_refused) {
  for (size_t i = 0; i < bytes_.size(); ++i) {
    auto damaged = bytes_;
    damaged[i] ^= static_cast<std::byte>(1 << (i % 8));
    ASSERT_NE(refusal(damaged), "accepted") << "byte " << i;
  }
  EXPECT_EQ(refusal(bytes_), "accepted");
}

TEST_F(SnapshotBytes, memory_that_runs_out_at_any_block_is_named) {
  int64_t refused = 0;
  for (int64_t more = 0;; more += 512, ++refused) {
    pool_.set_limit(pool_.live_bytes() + more);
    const std::string message = refusal(bytes_);
    if (message == "accepted") break;
    ASSERT_NE(message.find("out of memory"), std::string::npos) << message;
  }
  EXPECT_GT(refused, 10);
}

TEST_F(SnapshotBytes, any_truncation_and_any_appendix_is_refused) {
  for (size_t length = 0; length < bytes_.size(); ++length) {
    ASSERT_NE(refusal(std::span(bytes_).first(length)), "accepted") << length;
  }
  auto longer = bytes_;
  longer.push_back(std::byte{0});
  EXPECT_THAT(refusal(longer), HasSubstr("cut short or damaged"));
}

TEST_F(SnapshotBytes, damage_under_a_valid_checksum_never_harms) {
  for (const int level : {0, 3}) {
    const auto whole = encode_snapshot(layout_, identity_, tokens_, snapshot_, level);
    for (size_t i = 0; i < whole.size() - 16; ++i) {
      for (const int value : {0x01, 0x80, 0xFF}) {
        auto damaged = whole;
        damaged[i] ^= static_cast<std::byte>(value);
        reseal(damaged);
        refusal(damaged, layout_, identity_, 1 << 20);  // refused, or other records: no crash
      }
    }
  }
}

TEST_F(SnapshotBytes, damage_in_the_description_is_refused_under_a_valid_checksum) {
  const auto header = read_snapshot_header(bytes_, "file");
  ASSERT_TRUE(header);
  const size_t tokens_end = 32 + static_cast<size_t>(header->header_bytes);
  int accepted = 0;
  for (size_t i = 0; i < tokens_end; ++i) {
    auto damaged = bytes_;
    damaged[i] ^= std::byte{1};
    reseal(damaged);
    accepted += refusal(damaged) == "accepted" ? 1 : 0;
  }
  // Only token ids are data that a layout cannot judge: their low bits flip to other tokens.
  EXPECT_EQ(accepted, static_cast<int>(tokens_.size() * sizeof(int32_t)));
}

TEST_F(SnapshotBytes, every_mismatch_is_named) {
  const auto with = [&](auto change) {
    SnapshotIdentity identity = identity_;
    StateLayout layout = layout_;
    change(identity, layout);
    return refusal(bytes_, layout, identity);
  };
  EXPECT_THAT(with([](auto& identity, auto&) { identity.model = "other"; }),
              HasSubstr("model 'fake'; expected 'other'"));
  EXPECT_THAT(with([](auto& identity, auto&) { identity.weights.low = 1; }),
              HasSubstr("weights 00000000000056780000000000001234; expected"));
  EXPECT_THAT(with([](auto& identity, auto&) { identity.mixers[1] = "mamba"; }),
              HasSubstr("layer 1 is 'delta' in the snapshot; expected 'mamba'"));
  EXPECT_THAT(with([](auto&, auto& layout) { layout.entries[0].part.dtype = DType::f32; }),
              HasSubstr("layer 0, part 'k': element type bf16 in the snapshot; expected f32"));
  EXPECT_THAT(with([](auto&, auto& layout) { layout.entries[0].part.strips = 4; }),
              HasSubstr("strips 2 in the snapshot; expected 4"));
  EXPECT_THAT(with([](auto&, auto& layout) { layout.entries[2].part.window = 101; }),
              HasSubstr("window 100 in the snapshot; expected 101"));
  EXPECT_THAT(with([](auto&, auto& layout) { layout.entries.pop_back(); }), HasSubstr("parts"));
}

TEST_F(SnapshotBytes, other_versions_and_files_are_named) {
  auto newer = bytes_;
  newer[8] = std::byte{9};
  reseal(newer);
  EXPECT_THAT(refusal(newer), HasSubstr("snapshot format 9; expected 1"));
  newer = bytes_;
  newer[0] = std::byte{'X'};
  EXPECT_THAT(refusal(newer), HasSubstr("no snapshot"));
  EXPECT_THAT(refusal(std::span(bytes_).first(10)), HasSubstr("too few"));
}

TEST_F(SnapshotBytes, memory_is_bounded_before_it_is_taken) {
  EXPECT_THAT(refusal(bytes_, layout_, identity_, 1000), HasSubstr("expected at most 1000"));
  const double blocks = snapshot_sizes(layout_, snapshot_.position).blocks;
  EXPECT_EQ(refusal(bytes_, layout_, identity_, static_cast<int64_t>(blocks)), "accepted");
  EXPECT_NE(refusal(bytes_, layout_, identity_, static_cast<int64_t>(blocks) - 1), "accepted");
}

TEST_F(SnapshotBytes, describes_itself_without_a_model) {
  const auto header = read_snapshot_header(bytes_, "file");
  ASSERT_TRUE(header);
  EXPECT_EQ(header->identity, identity_);
  EXPECT_EQ(header->tokens, tokens_);
  EXPECT_EQ(header->layout.parts(), layout_.parts());
  EXPECT_EQ(header->layout.entries[4].part.name, layout_.entries[4].part.name);
}

TEST_F(SnapshotBytes, files_are_replaced_whole) {
  const auto folder = std::filesystem::temp_directory_path() /
                      ("heddle_snapshot_test_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "a.snapshot").string();
  ASSERT_TRUE(save_snapshot(path, layout_, identity_, tokens_, snapshot_));
  ASSERT_TRUE(save_snapshot(path, layout_, identity_, tokens_, snapshot_, 3));
  const auto loaded = load_snapshot(path, layout_, identity_, pool_, kPlenty);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(fake::check_snapshot(layout_, loaded->snapshot, tokens_), "");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  std::filesystem::remove_all(folder);
  const Status gone = save_snapshot(path, layout_, identity_, tokens_, snapshot_);
  ASSERT_FALSE(gone);
  EXPECT_THAT(gone.error().message, HasSubstr("cannot create a snapshot"));
  EXPECT_FALSE(load_snapshot(path, layout_, identity_, pool_, kPlenty));
}

}  // namespace
}  // namespace heddle::state
