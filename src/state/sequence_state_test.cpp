// State of sequences against a model that keeps nothing but the tokens.
#include "state/sequence_state.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "base/out_of_memory.h"
#include "base/rng.h"
#include "test/support/fake_model.h"
#include "test/support/scarce_memory.h"

namespace heddle::state {
namespace {

using fake::DraftTree;
using fake::Sequence;

std::vector<int32_t> random_tokens(int64_t count) {
  // Few different tokens: paths that differ by one token must still be told apart.
  return *rc::gen::container<std::vector<int32_t>>(static_cast<size_t>(count),
                                                   rc::gen::inRange<int32_t>(0, 5));
}

// A chain or a tree of drafts, with an accepted path that starts at the last committed row.
DraftTree random_drafts(const SequenceState& state, int64_t committed) {
  DraftTree drafts;
  const bool chain = *rc::gen::arbitrary<bool>();
  const int64_t most = chain ? 23 : std::min<int64_t>(state.tree_room(committed), 9);
  const int64_t count = *rc::gen::inRange<int64_t>(0, most + 1);
  drafts.tokens = random_tokens(count);
  if (chain) {
    drafts.accepted.resize(static_cast<size_t>(*rc::gen::inRange<int64_t>(0, count + 1)));
    std::iota(drafts.accepted.begin(), drafts.accepted.end(), 0);
    return drafts;
  }
  const auto root = static_cast<int32_t>(committed - 1);
  for (int64_t d = 0; d < count; ++d) {
    drafts.parents.push_back(*rc::gen::inRange<int32_t>(root, static_cast<int32_t>(committed + d)));
  }
  int32_t last = root;
  for (int64_t d = 0; d < count; ++d) {
    if (drafts.parents[static_cast<size_t>(d)] == last && *rc::gen::inRange(0, 4) > 0) {
      drafts.accepted.push_back(static_cast<int32_t>(d));
      last = static_cast<int32_t>(committed + d);
    }
  }
  return drafts;
}

void collect(const Snapshot& snapshot, std::set<const Block*>& blocks) {
  for (const GroupSnapshot& group : snapshot.groups) {
    group.for_each_block([&](const BlockRef& block) { blocks.insert(block.get()); });
  }
}

struct Held {
  Snapshot snapshot;
  std::vector<int32_t> tokens;
};

struct World {
  explicit World(const StateLayout& state_layout) : layout(state_layout) {
    pool.set_poison(true);
    sequences.emplace_back(layout, pool);
  }

  void step() {
    Sequence& sequence = pick(sequences);
    const int64_t size = *rc::gen::element<int64_t>(0, 1, 1, 1, 2, 3, 5, 17, 64, 130);
    const DraftTree drafts = random_drafts(sequence.state(), size);
    RC_ASSERT(sequence.step(random_tokens(size), drafts) == "");
  }

  void run_one() {
    switch (*rc::gen::element(0, 0, 0, 0, 0, 1, 2, 3, 4)) {
      case 0:
        step();
        break;
      case 1: {
        const Sequence& sequence = pick(sequences);
        held.push_back({sequence.snapshot(), sequence.tokens()});
        break;
      }
      case 2: {  // fork
        const Sequence& sequence = pick(sequences);
        sequences.emplace_back(layout, pool, sequence.snapshot(), sequence.tokens());
        break;
      }
      case 3:  // restore
        if (!held.empty()) {
          const Held& from = pick(held);
          sequences.emplace_back(layout, pool, from.snapshot, from.tokens);
        }
        break;
      case 4:  // drop
        if (sequences.size() > 1) sequences.erase(sequences.begin() + index(sequences));
        if (held.size() > 2) held.erase(held.begin() + index(held));
        break;
    }
  }

  void check() {
    std::set<const Block*> blocks;
    for (const Sequence& sequence : sequences) {
      RC_ASSERT(sequence.check() == "");
      collect(sequence.snapshot(), blocks);
    }
    for (const Held& entry : held) {
      RC_ASSERT(fake::check_snapshot(layout, entry.snapshot, entry.tokens) == "");
      collect(entry.snapshot, blocks);
    }
    int64_t bytes = 0;
    for (const Block* block : blocks) bytes += block == nullptr ? 0 : block->bytes;
    RC_ASSERT(pool.live_bytes() == bytes);
  }

  template <class T>
  int64_t index(const std::vector<T>& items) {
    return *rc::gen::inRange<int64_t>(0, static_cast<int64_t>(items.size()));
  }
  template <class T>
  T& pick(std::vector<T>& items) {
    return items[static_cast<size_t>(index(items))];
  }

  const StateLayout& layout;
  BlockPool pool;
  std::vector<Sequence> sequences;
  std::vector<Held> held;
};

RC_GTEST_PROP(SequenceState, any_history_leaves_what_its_tokens_say, ()) {
  const StateLayout layout = fake::full_layout();
  World world(layout);
  const int operations = *rc::gen::inRange(1, 25);
  for (int i = 0; i < operations; ++i) {
    world.run_one();
    if (i % 8 == 7) world.check();
  }
  world.check();
  world.sequences.clear();
  world.held.clear();
  RC_ASSERT(world.pool.live_bytes() == 0);
  RC_ASSERT(world.pool.live_blocks() == 0);
}

std::vector<int32_t> counting(int64_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

class SequenceStateFixed : public testing::Test {
 protected:
  SequenceStateFixed() { pool_.set_poison(true); }
  StateLayout layout_ = fake::full_layout();
  BlockPool pool_;
};

TEST_F(SequenceStateFixed, layout_errors_are_named) {
  const auto message = [&](auto change) {
    std::vector<std::vector<StatePart>> layers(layout_.first_part.size() - 1);
    for (const auto& [layer, part] : layout_.entries)
      layers[static_cast<size_t>(layer)].push_back(part);
    change(layers[2][1]);  // conv
    const auto layout = StateLayout::make(std::move(layers));
    return layout ? std::string() : layout.error().message;
  };
  EXPECT_NE(message([](StatePart& part) { part.page_records = 48; }).find("divisor of 64"),
            std::string::npos);
  EXPECT_NE(message([](StatePart& part) { part.window = 0; }).find("layer 2, part 'conv'"),
            std::string::npos);
  EXPECT_NE(message([](StatePart& part) { part.window = 7; }), "");
  EXPECT_NE(message([](StatePart& part) { part.strips = int64_t{1} << 40; }), "");
  EXPECT_NE(message([](StatePart& part) { part.name = "delta"; }), "");
  EXPECT_NE(message([](StatePart& part) { part.summary_elements = 4; }), "");
}

// Memory may run out at any block that a step needs; shared pages are copied first.
TEST_F(SequenceStateFixed, a_step_without_memory_leaves_the_sequence_as_it_was) {
  Rng rng(20);
  int64_t refused = 0;
  for (int history = 0; history < 12; ++history) {
    Sequence sequence(layout_, pool_);
    std::vector<Snapshot> shared;
    for (int step = 0; step < 24; ++step) {
      if (rng.below(3) == 0) shared.push_back(sequence.snapshot());
      std::vector<int32_t> tokens(1 + rng.below(step % 4 == 0 ? 150 : 3));
      for (int32_t& token : tokens) token = static_cast<int32_t>(rng.below(1000));
      const Snapshot before = sequence.snapshot();
      for (int64_t more = 0;; more += 1 + static_cast<int64_t>(rng.below(6000))) {
        pool_.set_limit(pool_.live_bytes() + more);
        const std::string wrong = sequence.step(tokens);
        if (wrong.empty()) break;
        ++refused;
        ASSERT_NE(wrong.find("over the limit"), std::string::npos) << wrong;
        ASSERT_EQ(sequence.snapshot().position, before.position);
        ASSERT_EQ(sequence.check(), "");
      }
      pool_.set_limit(std::numeric_limits<int64_t>::max());
      ASSERT_EQ(sequence.check(), "");
    }
  }
  EXPECT_GT(refused, 200);
}

TEST(BlockPool, TakesBackWhatOtherSizesDoNotUseAndSaysWhatIsMissing) {
  test::ScarceMemory memory;
  memory.limit(2 * backend::kHugePage);
  BlockPool pool(memory);
  const BlockRef kept = pool.allocate(100, Growth::per_token);
  pool.allocate(200, Growth::per_token);
  const BlockRef other = pool.allocate(300, Growth::per_token);  // where the 200 were
  try {
    pool.allocate(400, Growth::per_token);
    FAIL() << "more than there is";
  } catch (const OutOfMemory& error) {
    EXPECT_NE(std::string(error.what()).find("for pages and summaries"), std::string::npos);
  }
  EXPECT_EQ(pool.live_bytes(), 400);
}

// Lengths round every boundary, in one chunk, one by one, and split at every point near the end.
TEST_F(SequenceStateFixed, any_chunking_round_the_boundaries) {
  for (const int64_t length : {0, 1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200}) {
    const std::vector<int32_t> tokens = counting(length);
    for (int64_t cut = std::max<int64_t>(0, length - 3); cut <= length; ++cut) {
      Sequence sequence(layout_, pool_);
      ASSERT_EQ(sequence.step(std::span(tokens).first(static_cast<size_t>(cut))), "");
      ASSERT_EQ(sequence.step(std::span(tokens).subspan(static_cast<size_t>(cut))), "");
      ASSERT_EQ(sequence.check(), "") << length << " cut at " << cut;
    }
    Sequence sequence(layout_, pool_);
    for (const int32_t token : tokens) ASSERT_EQ(sequence.step(std::span(&token, 1)), "");
    ASSERT_EQ(sequence.check(), "") << length;
  }
}

TEST_F(SequenceStateFixed, a_chain_of_drafts_folds_beside_what_is_committed) {
  const StateLayout layout = fake::hybrid_layout();
  SequenceState state(layout, pool_);
  state.begin_step(60, 0);
  state.commit();
  const int64_t before = pool_.live_bytes(Growth::folded);
  state.begin_step(1, 10);
  const PartView delta = state.part_view(1);
  EXPECT_EQ(delta.next_summary(), nullptr);
  ASSERT_EQ(delta.draft_folds(), 1);
  EXPECT_NE(delta.draft_summary(0), nullptr);
  EXPECT_NE(delta.draft_open(0), delta.open());
  state.commit();  // none is accepted
  EXPECT_EQ(pool_.live_bytes(Growth::folded), before);
  EXPECT_EQ(state.position(), 61);
  state.begin_step(0, 3);
  ASSERT_EQ(state.part_view(1).draft_folds(), 1);
  EXPECT_EQ(state.part_view(1).draft_open(0), nullptr);  // no draft stands behind the boundary
  const std::vector<int32_t> all = {0, 1, 2};
  state.commit(all);
  EXPECT_EQ(state.position(), 64);
  EXPECT_TRUE(state.snapshot().groups[1].summary);
  EXPECT_FALSE(state.snapshot().groups[1].open);
  // A tree ends at a boundary and reaches none.
  EXPECT_EQ(state.tree_room(3), 61);
}

// From every place in a block of 16, over two boundaries of it (and up to 35 of shorter ones),
// every number of accepted drafts: what is left is what the tokens say.
TEST_F(SequenceStateFixed, chains_cross_the_boundaries_of_small_folds) {
  const StateLayout layout = fake::small_folds_layout();
  const std::vector<int32_t> right = counting(60);
  for (int64_t start = 0; start <= 16; ++start) {
    Sequence base(layout, pool_);
    ASSERT_EQ(base.step(std::span(right).first(static_cast<size_t>(start))), "");
    const Snapshot snapshot = base.snapshot();
    for (size_t accepted = 0; accepted <= 35; ++accepted) {
      Sequence sequence(layout, pool_, snapshot, base.tokens());
      DraftTree drafts{.tokens = counting(35)};
      drafts.accepted.resize(accepted);
      std::iota(drafts.accepted.begin(), drafts.accepted.end(), 0);
      const int64_t committed = start % 3;
      ASSERT_EQ(sequence.step(counting(committed), drafts), "");
      ASSERT_EQ(sequence.check(), "") << accepted << " from " << start << " + " << committed;
      ASSERT_EQ(sequence.step(counting(3)), "") << accepted << " from " << start;
    }
  }
}

TEST_F(SequenceStateFixed, rejected_drafts_leave_no_page_behind) {
  Sequence sequence(layout_, pool_);
  ASSERT_EQ(sequence.step(counting(63)), "");
  const int64_t before = pool_.live_bytes(Growth::per_token);
  const StateLayout attention = fake::attention_layout();
  Sequence drafting(attention, pool_);
  ASSERT_EQ(drafting.step(counting(63)), "");
  const int64_t with_second = pool_.live_bytes(Growth::per_token);
  ASSERT_EQ(drafting.step(counting(0), {.tokens = {1, 2, 3, 4}, .accepted = {}}), "");
  EXPECT_EQ(pool_.live_bytes(Growth::per_token), with_second);
  EXPECT_GT(with_second, before);
}

// Blocks of a class that a sequence refers to: their bytes depend on which of them pack.
int64_t blocks_of(const Sequence& sequence, Growth growth) {
  int64_t count = 0;
  for (const GroupSnapshot& group : sequence.snapshot().groups) {
    group.for_each_block(
        [&](const BlockRef& block) { count += block && block.get()->growth == growth ? 1 : 0; });
  }
  return count;
}

TEST_F(SequenceStateFixed, memory_of_windows_and_folds_does_not_grow_with_length) {
  Sequence sequence(layout_, pool_);
  ASSERT_EQ(sequence.step(counting(200)), "");
  const int64_t window = blocks_of(sequence, Growth::window);
  const int64_t folded = blocks_of(sequence, Growth::folded);
  for (int i = 0; i < 6; ++i) ASSERT_EQ(sequence.step(counting(128)), "");
  EXPECT_EQ(blocks_of(sequence, Growth::window), window);
  EXPECT_EQ(blocks_of(sequence, Growth::folded), folded);
  int64_t bytes = 0;
  for (const Growth growth : {Growth::per_token, Growth::window, Growth::folded})
    bytes += sequence.state().bytes(growth);
  EXPECT_EQ(pool_.live_bytes(), bytes);
}

// 28 layers of attention at 32,768 tokens, on one list of 512 blocks.
TEST_F(SequenceStateFixed, layers_share_the_blocks_of_their_group) {
  const StatePart keys{.name = "k", .strip = 1};
  const StatePart values{.name = "v", .strip = 1};
  const StateLayout layout =
      *StateLayout::make(std::vector<std::vector<StatePart>>(28, {keys, values}));
  SequenceState state(layout, pool_);
  state.begin_step(32768, 0);
  for (int64_t part = 0; part < layout.parts(); ++part)
    state.part_view(part).page(511)[255] = static_cast<std::byte>(part);
  for (int64_t part = 0; part < layout.parts(); ++part)
    EXPECT_EQ(state.part_view(part).page(511)[255], static_cast<std::byte>(part));
  state.commit();
  int64_t references = 0;
  for (const GroupSnapshot& group : state.snapshot().groups)
    group.for_each_block([&](const BlockRef& block) { references += block ? 1 : 0; });
  EXPECT_EQ(references, 512);
  EXPECT_EQ(pool_.live_blocks(), 512);
}

// What packs and what does not lie side by side in one block, which is shorter, and is shared and
// copied as a whole.
TEST_F(SequenceStateFixed, a_block_of_pages_with_and_without_a_shorter_form) {
  const PageGroup& group = layout_.groups[0];  // k (codec), v, latent (codec), rope (codec)
  ASSERT_EQ(group.parts.size(), 4u);
  std::set<int> packed_parts;
  for (int32_t first = 0; first < 40; ++first) {
    Sequence sequence(layout_, pool_);
    ASSERT_EQ(sequence.step(std::vector<int32_t>(64, first)), "");
    const Snapshot snapshot = sequence.snapshot();
    const BlockRef& block = snapshot.groups[0].pages[0];
    EXPECT_TRUE(block.shared());
    int packed = 0;
    for (int64_t i = 0; i < 4 && block.packed(); ++i)
      packed += PackedHead(block.data()).packed(i) ? 1 : 0;
    packed_parts.insert(packed);
    EXPECT_EQ(block.packed(), packed > 0);
    if (block.packed()) {
      EXPECT_LT(block.bytes(), group.page_bytes);
      EXPECT_FALSE(PackedHead(block.data()).packed(1)) << "v has no codec";
    } else {
      EXPECT_EQ(block.bytes(), group.page_bytes);
    }
    // Drafts that are rejected leave the page packed and shared.
    ASSERT_EQ(sequence.step({}, {.tokens = {1, 2}, .accepted = {}}), "");
    EXPECT_EQ(sequence.snapshot().groups[0].pages[0].get(), block.get());
    ASSERT_EQ(sequence.check(), "");
  }
  EXPECT_EQ(packed_parts, (std::set<int>{0, 1, 2, 3}));
}

TEST_F(SequenceStateFixed, a_chunk_stores_only_the_tail_of_a_convolution) {
  const StateLayout layout = fake::hybrid_layout();
  SequenceState state(layout, pool_);
  state.begin_step(100, 0);
  const PartView conv = state.part_view(2);
  for (int64_t page = 0; page < 24; ++page) EXPECT_EQ(conv.page(page), nullptr) << page;
  EXPECT_NE(conv.page(24), nullptr);  // slots 96 to 99, of which 97 to 99 are the window
  state.commit();
}

TEST_F(SequenceStateFixed, snapshots_copy_nothing_until_somebody_writes) {
  Sequence sequence(layout_, pool_);
  ASSERT_EQ(sequence.step(counting(70)), "");
  const int64_t before = pool_.live_bytes();
  const Snapshot snapshot = sequence.snapshot();
  Sequence fork(layout_, pool_, snapshot, sequence.tokens());
  EXPECT_EQ(pool_.live_bytes(), before);
  ASSERT_EQ(fork.step(counting(1)), "");
  EXPECT_GT(pool_.live_bytes(), before);
  EXPECT_EQ(fake::check_snapshot(layout_, snapshot, sequence.tokens()), "");
  EXPECT_EQ(sequence.check(), "");
}

TEST_F(SequenceStateFixed, freed_blocks_are_used_again) {
  {
    Sequence sequence(layout_, pool_);
    ASSERT_EQ(sequence.step(counting(70)), "");
  }
  const int64_t free = pool_.free_bytes();
  EXPECT_GT(free, 0);
  {
    Sequence sequence(layout_, pool_);
    ASSERT_EQ(sequence.step(counting(70)), "");
    EXPECT_EQ(pool_.free_bytes() + pool_.live_bytes(), free);
    pool_.trim();  // what lies beside a block in use stays
    EXPECT_EQ(sequence.check(), "");
    ASSERT_EQ(sequence.step(counting(70)), "");
    EXPECT_EQ(sequence.check(), "");
  }
  pool_.trim();
  EXPECT_EQ(pool_.free_bytes(), 0);
}

// Blocks of one size lie side by side, in the order in which they are asked for.
TEST_F(SequenceStateFixed, blocks_share_huge_pages) {
  const int64_t bytes = 3 << 14;
  std::vector<BlockRef> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(pool_.allocate(bytes, Growth::per_token));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks[0].data()) % 64, 0u);
  int64_t apart = 0;
  for (size_t i = 1; i < blocks.size(); ++i)
    apart += blocks[i].data() - blocks[i - 1].data() > bytes + 64 ? 1 : 0;
  EXPECT_LE(apart, 100 * bytes / (int64_t{2} << 20));
  for (size_t i = 0; i < blocks.size(); ++i)
    std::memset(blocks[i].data(), static_cast<int>(i), static_cast<size_t>(bytes));
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i].data()[0], static_cast<std::byte>(i));
    EXPECT_EQ(blocks[i].data()[bytes - 1], static_cast<std::byte>(i));
  }
}

TEST(SequenceStateDeath, misuse_is_a_bug) {
  const StateLayout layout = fake::hybrid_layout();
  BlockPool pool;
  SequenceState state(layout, pool);
  EXPECT_DEATH(state.commit(), "outside a step");
  const std::vector<int32_t> tree = {62, 62};
  EXPECT_DEATH(state.begin_step(63, 2, tree), "room for 1");
  EXPECT_DEATH(state.begin_step(63, 65), "room for 64");
  state.begin_step(1, 0);
  EXPECT_DEATH(state.begin_step(1, 0), "before the last one has ended");
  EXPECT_DEATH(state.snapshot(), "inside a step");
  state.commit();
}

}  // namespace
}  // namespace heddle::state
