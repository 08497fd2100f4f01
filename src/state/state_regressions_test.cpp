// Failures of other engines that users reported (repository and issue in each name), as tests of
// ours: what a hybrid's cache and state must not do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "state/prefix_cache.h"
#include "state/snapshot_file.h"
#include "test/support/fake_model.h"

namespace heddle::state {
namespace {

using fake::Sequence;
using testing::HasSubstr;

constexpr int64_t kPlenty = int64_t{1} << 40;

std::vector<int32_t> counting(int64_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Regression : public testing::Test {
 protected:
  Regression() { pool_.set_poison(true); }

  // Serves a prompt as an engine does: resumes where the cache allows (one token is left to
  // compute), runs the rest, keeps the end. Returns the tokens that the cache saved.
  int64_t serve(const std::vector<int32_t>& prompt, std::string_view key = "") {
    const auto size = static_cast<int64_t>(prompt.size());
    const PrefixCache::Match match = cache_.match(key, prompt, size - 1);
    cache_.touch(match, size);
    const auto prefix = std::span(prompt).first(static_cast<size_t>(match.position));
    Sequence sequence = match.position > 0 ? Sequence(layout_, pool_, match.snapshot, prefix)
                                           : Sequence(layout_, pool_);
    EXPECT_EQ(sequence.step(std::span(prompt).subspan(prefix.size())), "");
    EXPECT_EQ(sequence.check(), "");
    cache_.insert(key, prompt, sequence.snapshot());
    return match.position;
  }

  StateLayout layout_ = fake::full_layout();
  BlockPool pool_;
  PrefixCache cache_{layout_, {.max_bytes = kPlenty}};
};

TEST_F(Regression, llama_cpp_20225_every_turn_of_a_hybrid_reprocesses_the_conversation) {
  std::vector<int32_t> conversation = counting(50);
  serve(conversation);
  for (int turn = 1; turn < 6; ++turn) {
    const auto before = static_cast<int64_t>(conversation.size());
    conversation = conversation + counting(37, 1000 * turn);
    EXPECT_EQ(serve(conversation), before);
  }
}

TEST_F(Regression, llama_cpp_24035_using_an_old_checkpoint_erases_the_later_ones) {
  const auto start = counting(100);
  const auto whole = start + counting(300, 1000);
  serve(start);
  serve(whole);
  EXPECT_EQ(serve(start + counting(10, 5000)), 100);
  EXPECT_EQ(serve(whole + counting(1)), 400);
}

TEST_F(Regression, llama_cpp_24035_an_unrelated_short_request_evicts_a_long_chat) {
  const auto chat = counting(400);
  serve(chat);
  serve(counting(20, 5000));
  cache_.shrink(cache_.bytes() - 1);
  EXPECT_EQ(serve(chat + counting(5)), 400);
}

TEST_F(Regression, llama_cpp_26695_rejecting_a_whole_decode_leaves_its_state_behind) {
  Sequence sequence(layout_, pool_);
  ASSERT_EQ(sequence.step(counting(61)), "");
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(sequence.step({}, {.tokens = {7, 8, 9}, .accepted = {}}), "");
    ASSERT_EQ(sequence.check(), "");
    ASSERT_EQ(sequence.state().position(), 61);
  }
  ASSERT_EQ(sequence.step(counting(10)), "");
  EXPECT_EQ(sequence.check(), "");
}

TEST_F(Regression, vllm_50272_the_convolution_window_keeps_a_rejected_token) {
  const StateLayout layout = fake::hybrid_layout();
  Sequence sequence(layout, pool_);
  ASSERT_EQ(sequence.step(counting(9)), "");
  // Rejected at the first, a middle and the last draft: the window holds accepted tokens only.
  for (const std::vector<int32_t>& accepted :
       {std::vector<int32_t>{}, std::vector<int32_t>{0}, std::vector<int32_t>{0, 1}}) {
    ASSERT_EQ(sequence.step(counting(1), {.tokens = {70, 71}, .accepted = accepted}), "");
    ASSERT_EQ(sequence.check(), "");
  }
}

TEST_F(Regression, vllm_39273_drafts_that_share_no_path_corrupt_a_recurrent_state) {
  Sequence sequence(layout_, pool_);
  ASSERT_EQ(sequence.step(counting(64)), "");
  // Two branches behind the committed row; the second wins: its records move over the first's.
  ASSERT_EQ(
      sequence.step(counting(1), {.tokens = {1, 2, 3}, .parents = {0, 0, 2}, .accepted = {1, 2}}),
      "");
  EXPECT_EQ(sequence.tokens().back(), 3);
  EXPECT_EQ(sequence.check(), "");
}

TEST_F(Regression, vllm_40696_prompts_shorter_than_an_inflated_block_never_hit) {
  for (const int64_t length : {2, 12, 60, 63, 64, 65, 479, 527}) {
    const auto prompt = counting(length, static_cast<int32_t>(10000 * length));
    serve(prompt);
    EXPECT_EQ(serve(prompt + counting(3)), length);
  }
}

TEST_F(Regression, vllm_46424_a_prompt_one_token_behind_full_cached_blocks) {
  const auto blocks = counting(128);
  serve(blocks);
  const auto prompt = blocks + counting(1);
  EXPECT_EQ(serve(prompt), 128);
  EXPECT_EQ(serve(prompt + counting(1)), 129);
}

TEST_F(Regression, vllm_43559_alternating_prompts_poison_each_others_cache) {
  const auto a = counting(150) + counting(30, 1000);
  const auto b = counting(150) + counting(30, 2000);
  serve(counting(150));
  for (int round = 0; round < 3; ++round) {
    serve(a);  // serve() checks every record against the tokens
    serve(b);
  }
  for (const auto& prompt : {a, b}) {
    const PrefixCache::Match match = cache_.match("", prompt, kPlenty);
    EXPECT_EQ(match.position, 180);
    EXPECT_EQ(fake::check_snapshot(layout_, match.snapshot, prompt), "");
  }
}

TEST_F(Regression, vllm_54360_speculative_decoding_zeroes_prefix_hits) {
  Sequence sequence(layout_, pool_);
  ASSERT_EQ(sequence.step(counting(70)), "");
  for (int round = 0; round < 20; ++round) {
    const fake::DraftTree drafts{.tokens = counting(3, 100 * round), .accepted = {0}};
    ASSERT_EQ(sequence.step(counting(1), drafts), "");
    cache_.insert("", sequence.tokens(), sequence.snapshot());
  }
  const auto next = sequence.tokens() + counting(20);
  const PrefixCache::Match match = cache_.match("", next, kPlenty);
  EXPECT_EQ(match.position, static_cast<int64_t>(sequence.tokens().size()));
  EXPECT_EQ(fake::check_snapshot(layout_, match.snapshot, sequence.tokens()), "");
}

TEST_F(Regression, vllm_52897_the_first_hit_comes_only_with_the_third_request) {
  const auto prompt = counting(200);
  EXPECT_EQ(serve(prompt), 0);
  EXPECT_EQ(serve(prompt + counting(8, 900)), 200);
  EXPECT_EQ(cache_.stats().hits, 1);
  EXPECT_EQ(cache_.stats().tokens_saved, 200);
}

TEST_F(Regression, vllm_54458_a_short_prompt_pins_the_pool) {
  Sequence sequence(layout_, pool_);
  ASSERT_EQ(sequence.step(counting(12)), "");
  int64_t bound = 0;  // one page and at most one summary a group; small windows may span more
  for (const PageGroup& group : layout_.groups) {
    const int64_t pages = group.growth == Growth::folded ? 1 : group.pages_for(12);
    bound += pages * group.page_bytes + group.summary_bytes;
  }
  EXPECT_LE(pool_.live_bytes(), bound);
}

TEST_F(Regression, sglang_40706_every_draft_takes_a_state_of_its_own) {
  SequenceState state(layout_, pool_);
  state.begin_step(65, 0);
  state.commit();
  const int64_t before = pool_.live_bytes(Growth::folded);
  state.begin_step(0, 2);
  // The drafts' records lie in the open pages: not one summary more before a boundary.
  EXPECT_EQ(pool_.live_bytes(Growth::folded), before);
  state.commit();
  EXPECT_EQ(pool_.live_bytes(Growth::folded), before);
}

TEST_F(Regression, sglang_39436_kv_stays_cached_that_no_state_can_use) {
  const auto start = counting(200);
  serve(start);
  for (int i = 1; i < 6; ++i) serve(start + counting(64 * i, 1000 * i));
  for (int64_t target = cache_.bytes(); target > 0; target -= target / 5 + 1) {
    cache_.shrink(target);
    EXPECT_EQ(cache_.stats().unreachable_bytes, 0);
    EXPECT_TRUE(cache_.stats().per_token_bytes == 0 || cache_.stats().points > 0);
  }
}

TEST_F(Regression, unsloth_11073_checkpoints_fill_memory_unseen) {
  PrefixCache small(layout_, {.max_bytes = 40000});
  for (int i = 0; i < 30; ++i) {
    Sequence sequence(layout_, pool_);
    ASSERT_EQ(sequence.step(counting(90, 1000 * i)), "");
    small.insert("", sequence.tokens(), sequence.snapshot());
    EXPECT_LE(small.bytes(), 40000);
  }
  EXPECT_GT(small.bytes(), 0);
  EXPECT_EQ(pool_.live_bytes(), small.bytes());
  EXPECT_GT(small.stats().evicted_points, 0);
}

TEST_F(Regression, llama_rn_360_any_divergence_reprocesses_the_whole_prompt) {
  const auto system = counting(90);
  const auto turn = system + counting(40, 1000);
  serve(system);  // a template boundary
  serve(turn);
  // The last turn is edited: work starts at the end of the system prompt.
  EXPECT_EQ(serve(system + counting(40, 2000)), 90);
}

TEST_F(Regression, qwen_131_dropping_a_thinking_block_loses_the_conversation) {
  const auto before_thinking = counting(100);
  const auto thinking = before_thinking + counting(50, 1000);
  const auto with_answer = thinking + counting(20, 2000);
  serve(before_thinking);
  serve(with_answer);
  // The template leaves the thinking out of the next prompt.
  EXPECT_EQ(serve(before_thinking + counting(20, 2000) + counting(10, 3000)), 100);
}

TEST_F(Regression, a_hit_across_api_keys_tells_one_tenant_what_another_asked) {
  const auto prompt = counting(200);
  serve(prompt, "key a");
  EXPECT_EQ(serve(prompt + counting(1), "key b"), 0);
  EXPECT_EQ(cache_.match("key c", prompt, kPlenty).known, 0);
  EXPECT_EQ(serve(prompt + counting(1), "key a"), 200);
}

class WireRegression : public Regression {
 protected:
  std::vector<std::byte> saved() {
    Sequence sequence(layout_, pool_);
    EXPECT_EQ(sequence.step(counting(100)), "");
    return encode_snapshot(layout_, identity_, sequence.tokens(), sequence.snapshot());
  }
  std::string refusal(std::span<const std::byte> bytes, const StateLayout& layout) {
    const auto loaded = decode_snapshot(bytes, "peer", layout, identity_, pool_, kPlenty);
    return loaded ? "accepted" : loaded.error().message;
  }
  SnapshotIdentity identity_{.model = "fake", .weights = {1, 2}, .mixers = {"a", "b", "c"}};
};

TEST_F(WireRegression, sglang_36371_prefill_in_bf16_and_decode_in_f32_are_silently_mixed) {
  StateLayout decode = layout_;
  decode.entries[4].part.dtype = DType::bf16;
  EXPECT_THAT(refusal(saved(), decode), HasSubstr("element type f32 in the snapshot; expected"));
}

TEST_F(WireRegression, sglang_23746_state_cut_for_another_number_of_heads_is_accepted) {
  StateLayout half = layout_;
  half.entries[0].part.strips /= 2;
  EXPECT_THAT(refusal(saved(), half), HasSubstr("strips 2 in the snapshot; expected 1"));
}

TEST_F(WireRegression, lmcache_2845_kv_comes_back_without_the_state) {
  const auto bytes = saved();
  StateLayout attention_only = fake::attention_layout();
  EXPECT_NE(refusal(bytes, attention_only), "accepted");
  // Nor does a cache hand out pages where the state is missing.
  const auto prompt = counting(200);
  serve(prompt);
  auto other = prompt;
  other[130] = -1;
  const PrefixCache::Match match = cache_.match("", other, kPlenty);
  EXPECT_EQ(match.known, 130);
  EXPECT_EQ(match.position, 0);
}

TEST(RegressionDeath, sglang_39342_a_half_written_step_is_donated_to_the_cache) {
  const StateLayout layout = fake::full_layout();
  BlockPool pool;
  SequenceState state(layout, pool);
  state.begin_step(10, 0);
  EXPECT_DEATH(state.snapshot(), "inside a step");
  state.commit();
}

}  // namespace
}  // namespace heddle::state
