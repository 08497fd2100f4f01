// The prefix cache against a model that remembers every insertion and scans them all.
#include "state/prefix_cache.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "test/support/fake_model.h"

namespace heddle::state {
namespace {

using fake::Sequence;

constexpr int64_t kPlenty = int64_t{1} << 40;

std::vector<int32_t> counting(int64_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

Snapshot run(const StateLayout& layout, BlockPool& pool, const std::vector<int32_t>& tokens) {
  Sequence sequence(layout, pool);
  EXPECT_EQ(sequence.step(tokens), "");
  return sequence.snapshot();
}

int64_t common(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  size_t i = 0;
  while (i < std::min(a.size(), b.size()) && a[i] == b[i]) ++i;
  return static_cast<int64_t>(i);
}

// Prompts that share prefixes: a few long stems, cut anywhere, with a few tokens behind.
std::vector<int32_t> random_prompt() {
  const int32_t stem = *rc::gen::inRange<int32_t>(0, 2);
  const int64_t length =
      *rc::gen::element<int64_t>(0, 1, 3, 63, 64, 65, 66, 100, 127, 128, 129, 190, 256, 300);
  const int64_t more = *rc::gen::element<int64_t>(0, 0, 1, 2, 5, 64, 70);
  auto tokens = counting(length, stem * 1000);
  const int32_t tail = *rc::gen::inRange<int32_t>(0, 2);
  for (int64_t i = 0; i < more; ++i) tokens.push_back(tail);
  return tokens;
}

struct Entry {
  std::string key;
  std::vector<int32_t> tokens;
};

// The longest exact match that the design promises: with points, an inserted prefix; without, any
// common prefix.
int64_t promised(const std::vector<Entry>& entries, const std::string& key,
                 const std::vector<int32_t>& tokens, int64_t limit, bool anywhere) {
  int64_t best = 0;
  for (const Entry& entry : entries) {
    if (entry.key != key) continue;
    const int64_t shared = std::min(limit, common(entry.tokens, tokens));
    const auto whole = static_cast<int64_t>(entry.tokens.size());
    if (anywhere || shared == whole) best = std::max(best, shared);
  }
  return best;
}

void cache_history(const StateLayout& layout, uint64_t hash_mask) {
  BlockPool pool;
  pool.set_poison(true);
  {
    PrefixCache cache(layout, {.max_bytes = kPlenty, .hash_mask = hash_mask});
    const bool anywhere = std::ranges::all_of(
        layout.entries, [](const auto& e) { return e.part.growth == Growth::per_token; });
    std::vector<Entry> entries;
    std::set<const Block*> blocks;
    const int operations = *rc::gen::inRange(1, 20);
    for (int i = 0; i < operations; ++i) {
      const std::string key = *rc::gen::element<std::string>("", "a");
      const auto tokens = random_prompt();
      const auto size = static_cast<int64_t>(tokens.size());
      const int64_t limit = *rc::gen::element(size, size - 1, size + 5);
      const PrefixCache::Match match = cache.match(key, tokens, limit);
      const int64_t least = promised(entries, key, tokens, std::min(limit, size), anywhere);
      // Trimming may find more than was promised, never less and never wrong.
      RC_ASSERT(match.position >= least);
      RC_ASSERT(!anywhere || match.position == least);
      RC_ASSERT(match.position <= std::max<int64_t>(0, std::min(limit, size)));
      RC_ASSERT(match.known >= match.position);
      RC_ASSERT(match.known == promised(entries, key, tokens, std::min(limit, size), true));
      cache.touch(match, size);
      const auto prefix = std::span(tokens).first(static_cast<size_t>(match.position));
      if (match.position > 0) {
        RC_ASSERT(fake::check_snapshot(layout, match.snapshot, prefix) == "");
      }
      Sequence sequence = match.position > 0 ? Sequence(layout, pool, match.snapshot, prefix)
                                             : Sequence(layout, pool);
      RC_ASSERT(sequence.step(std::span(tokens).subspan(prefix.size())) == "");
      RC_ASSERT(sequence.check() == "");
      if (*rc::gen::inRange(0, 3) > 0) {
        cache.insert(key, tokens, sequence.snapshot());
        entries.push_back({key, tokens});
      }
    }
    // Nothing but the cache holds blocks now, and it counts each once.
    RC_ASSERT(cache.bytes() == pool.live_bytes());
    const PrefixCache::Stats stats = cache.stats();
    RC_ASSERT(stats.per_token_bytes + stats.window_bytes + stats.folded_bytes == stats.bytes);
    RC_ASSERT(stats.unreachable_bytes == 0);
    // Everything it has can be evicted, and evicting keeps the books.
    while (cache.bytes() > 0) {
      const int64_t target = cache.bytes() * 3 / 4;
      cache.shrink(target);
      RC_ASSERT(cache.bytes() <= target);
      RC_ASSERT(cache.bytes() == pool.live_bytes());
      RC_ASSERT(cache.stats().unreachable_bytes == 0);
    }
  }
  RC_ASSERT(pool.live_bytes() == 0);
}

RC_GTEST_PROP(PrefixCache, every_growth_class_matches_what_was_inserted, ()) {
  cache_history(fake::full_layout(), ~uint64_t{0});
}

RC_GTEST_PROP(PrefixCache, hybrid_matches_what_was_inserted_under_colliding_hashes, ()) {
  cache_history(fake::hybrid_layout(), 1);
}

RC_GTEST_PROP(PrefixCache, attention_alone_resumes_anywhere, ()) {
  cache_history(fake::attention_layout(), ~uint64_t{0});
}

RC_GTEST_PROP(PrefixCache, windows_in_full_pages_match_what_was_inserted, ()) {
  cache_history(fake::sliding_layout(), 3);
}

RC_GTEST_PROP(PrefixCache, a_small_budget_is_kept_and_hits_stay_right, ()) {
  const StateLayout layout =
      *rc::gen::element(0, 1) == 0 ? fake::hybrid_layout() : fake::attention_layout();
  BlockPool pool;
  pool.set_poison(true);
  const int64_t budget = *rc::gen::inRange<int64_t>(0, 30000);
  int64_t evicted = 0;
  PrefixCache cache(layout, {.max_bytes = budget,
                             .on_evict = [&](std::string_view, std::span<const int32_t> tokens,
                                             const Snapshot& snapshot) {
                               RC_ASSERT(fake::check_snapshot(layout, snapshot, tokens) == "");
                               ++evicted;
                             }});
  for (int i = 0; i < 20; ++i) {
    const auto tokens = random_prompt();
    const PrefixCache::Match match = cache.match("", tokens, kPlenty);
    cache.touch(match, static_cast<int64_t>(tokens.size()));
    if (match.position > 0) {
      RC_ASSERT(
          fake::check_snapshot(layout, match.snapshot,
                               std::span(tokens).first(static_cast<size_t>(match.position))) == "");
    }
    cache.insert("", tokens, run(layout, pool, tokens));
    RC_ASSERT(cache.bytes() <= budget);
    RC_ASSERT(cache.stats().unreachable_bytes == 0);
  }
  RC_ASSERT(cache.stats().evicted_points == evicted);
}

class PrefixCacheFixed : public testing::Test {
 protected:
  PrefixCacheFixed() { pool_.set_poison(true); }
  BlockPool pool_;
};

TEST_F(PrefixCacheFixed, a_tail_serves_every_position_of_its_fold_block) {
  const StateLayout layout = fake::fold_layout();
  PrefixCache cache(layout, {.max_bytes = kPlenty});
  const auto tokens = counting(100);
  cache.insert("", tokens, run(layout, pool_, tokens));
  auto other = tokens;
  other[90] = -1;
  const PrefixCache::Match match = cache.match("", other, 100);
  EXPECT_EQ(match.position, 90);
  EXPECT_EQ(fake::check_snapshot(layout, match.snapshot, std::span(tokens).first(90)), "");
  other[63] = -1;
  EXPECT_EQ(cache.match("", other, 100).position, 0);
  EXPECT_EQ(cache.match("", other, 100).known, 63);
}

TEST_F(PrefixCacheFixed, a_window_serves_earlier_positions_while_its_pages_last) {
  const StateLayout layout = fake::sliding_layout();  // windows of 200
  PrefixCache cache(layout, {.max_bytes = kPlenty});
  const auto tokens = counting(300);
  cache.insert("", tokens, run(layout, pool_, tokens));
  auto other = tokens;
  other[265] = -1;
  EXPECT_EQ(cache.match("", other, 300).position, 265);
  other[150] = -1;  // would need position 0; the window starts at 64
  EXPECT_EQ(cache.match("", other, 300).position, 0);
  EXPECT_EQ(cache.match("", other, 300).known, 150);

  PrefixCache early(layout, {.max_bytes = kPlenty});
  const auto first = counting(190);
  early.insert("", first, run(layout, pool_, first));
  EXPECT_EQ(early.match("", other, 300).position, 150);
}

TEST_F(PrefixCacheFixed, one_prompt_with_many_points_stores_its_pages_once) {
  const StateLayout layout = fake::hybrid_layout();
  PrefixCache cache(layout, {.max_bytes = kPlenty});
  Sequence sequence(layout, pool_);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(sequence.step(counting(13, i * 13)), "");
    cache.insert("", sequence.tokens(), sequence.snapshot());
  }
  // 260 tokens: four full pages, shared by every point, and the last unfinished one.
  const int64_t page = layout.entries[0].part.page_bytes();
  EXPECT_EQ(cache.stats().per_token_bytes, 5 * page);
  EXPECT_EQ(cache.stats().points, 20);
}

TEST_F(PrefixCacheFixed, keeps_what_is_dear_per_byte_and_what_was_used) {
  const StateLayout layout = fake::hybrid_layout();
  const auto long_prompt = counting(640);
  const auto short_prompt = counting(64, 5000);
  const auto used = counting(64, 7000);
  PrefixCache cache(layout, {.max_bytes = kPlenty});
  cache.insert("", long_prompt, run(layout, pool_, long_prompt));
  cache.insert("", short_prompt, run(layout, pool_, short_prompt));
  cache.shrink(cache.bytes() - 1);
  EXPECT_EQ(cache.match("", long_prompt, kPlenty).position, 640);
  EXPECT_EQ(cache.match("", short_prompt, kPlenty).position, 0);

  // Recency ages the dear one out in the end.
  for (int i = 0; i < 40; ++i) {
    cache.insert("", used, run(layout, pool_, used));
    cache.touch(cache.match("", used, kPlenty), 64);
    const auto filler = counting(64, 10000 + 100 * i);
    cache.insert("", filler, run(layout, pool_, filler));
    cache.touch(cache.match("", filler, kPlenty), 64);
    cache.shrink(cache.bytes() - 1);
  }
  EXPECT_EQ(cache.match("", long_prompt, kPlenty).position, 0);
}

TEST_F(PrefixCacheFixed, evicting_under_a_running_sequence_is_harmless) {
  const StateLayout layout = fake::hybrid_layout();
  PrefixCache cache(layout, {.max_bytes = kPlenty});
  const auto tokens = counting(150);
  cache.insert("", tokens, run(layout, pool_, tokens));
  const PrefixCache::Match match = cache.match("", tokens, 150);
  Sequence sequence(layout, pool_, match.snapshot, tokens);
  cache.shrink(0);
  EXPECT_EQ(cache.bytes(), 0);
  ASSERT_EQ(sequence.step(counting(100)), "");
  EXPECT_EQ(sequence.check(), "");
  cache.touch(match, 150);  // the point is gone; touching it changes counters only
  EXPECT_EQ(cache.stats().hits, 1);
}

TEST_F(PrefixCacheFixed, a_very_long_path_is_freed_without_recursion) {
  const StateLayout layout = fake::attention_layout();
  Snapshot snapshot;
  snapshot.position = 64 * 20000;
  const BlockRef page = pool_.allocate(64, Growth::per_token);
  snapshot.groups.push_back({.pages = std::vector<BlockRef>(20000, page)});
  PrefixCache cache(layout, {.max_bytes = kPlenty});
  const auto tokens = counting(snapshot.position);
  cache.insert("", tokens, snapshot);
  EXPECT_EQ(cache.match("", tokens, kPlenty).position, snapshot.position);
  EXPECT_EQ(cache.bytes(), 64);
  cache.shrink(0);
  EXPECT_EQ(cache.stats().nodes, 0);
}

}  // namespace
}  // namespace heddle::state
