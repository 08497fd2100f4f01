// The state contract over every mixer x kernel set x SIMD target (design, sections 1 and 6): equal
// bits whoever asks.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "backend/target.h"
#include "ops/naive.h"
#include "sublayer/kind_table.h"
#include "sublayer/naive.h"
#include "test/support/mixer_rig.h"

namespace heddle::test {
namespace {

struct Setting {
  const sublayer::Kind* kind;
  sublayer::Case mixer_case;
  backend::KernelSet kernels;
  std::string target;  // of the cpu kernels
};

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const sublayer::Kind* kind : sublayer::kind_table()) {
    for (const sublayer::Case& mixer_case : kind->cases()) {
      if (mixer_case.bench) continue;
      all.push_back(
          {kind, mixer_case, backend::KernelSet::reference, std::string(backend::active_target())});
      for (const std::string_view target : backend::supported_targets())
        all.push_back({kind, mixer_case, backend::KernelSet::cpu, std::string(target)});
    }
  }
  return all;
}

std::string name_of(const Setting& s) {
  std::string name = std::string(s.kind->name) + "_" + s.mixer_case.name + "_" +
                     (s.kernels == backend::KernelSet::reference ? "reference" : s.target);
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

void PrintTo(const Setting& setting, std::ostream* out) { *out << name_of(setting); }

class Contract : public ::testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    default_target_ = std::string(backend::active_target());
    ASSERT_TRUE(backend::use_target(GetParam().target).has_value());
  }
  void TearDown() override { ASSERT_TRUE(backend::use_target(default_target_).has_value()); }
  MixerRig rig(int threads = 2) const {
    return MixerRig(*GetParam().kind, GetParam().mixer_case, GetParam().kernels, threads);
  }
  // Long enough for several fold blocks, three pages and a window edge; the specification is slow,
  // so it runs shorter.
  int64_t length() const { return GetParam().kernels == backend::KernelSet::reference ? 131 : 203; }

 private:
  std::string default_target_;
};

TEST_P(Contract, AnyChunkingGivesEqualBits) {
  MixerRig r = rig();
  const auto tokens = random_tokens(length(), 1);
  auto whole = r.sequence();
  const Rows expected = r.feed(*whole, tokens);
  for (const int64_t chunk : {1, 7, 63, 64, 65}) {
    auto sequence = r.sequence();
    EXPECT_TRUE(same_bits(r.feed(*sequence, tokens, chunk), expected)) << "chunk " << chunk;
  }
}

TEST_P(Contract, EveryLengthAroundTheBoundaries) {
  MixerRig r = rig();
  const auto tokens = random_tokens(130, 2);
  auto whole = r.sequence();
  const Rows expected = r.feed(*whole, tokens);
  const int64_t fold = r.layout.fold_length();
  for (const int64_t n :
       {int64_t{0}, int64_t{1}, fold - 1, fold, fold + 1, int64_t{63}, int64_t{64}, int64_t{65}}) {
    if (n < 0) continue;
    auto sequence = r.sequence();
    const Rows head = r.feed(*sequence, {tokens.begin(), tokens.begin() + n});
    EXPECT_TRUE(same_bits(head, {expected.begin(), expected.begin() + n})) << "length " << n;
    const Rows next = r.feed(*sequence, {tokens.begin() + n, tokens.begin() + n + 5}, 1);
    EXPECT_TRUE(same_bits(next, {expected.begin() + n, expected.begin() + n + 5}))
        << "after length " << n;
  }
}

TEST_P(Contract, AnyBatchAndThreadCountGivesEqualBits) {
  const auto a = random_tokens(length(), 3);
  const auto b = random_tokens(77, 4);
  const auto c = random_tokens(30, 5);
  Rows expected_a;
  Rows expected_b;
  Rows expected_c;
  {
    MixerRig alone = rig(1);
    auto sa = alone.sequence();
    auto sb = alone.sequence();
    auto sc = alone.sequence();
    expected_a = alone.feed(*sa, a);
    expected_b = alone.feed(*sb, b);
    expected_c = alone.feed(*sc, c);
  }
  for (const int threads : {1, 2, 3}) {
    MixerRig r = rig(threads);
    auto sa = r.sequence();
    auto sb = r.sequence();
    auto sc = r.sequence();
    Rows got_a;
    Rows got_b;
    Rows got_c;
    // A long prompt in pieces, a prompt in two halves and a sequence that decodes, side by side.
    size_t at_a = 0;
    size_t at_b = 0;
    size_t at_c = 0;
    while (at_a < a.size() || at_b < b.size() || at_c < c.size()) {
      const size_t end_a = std::min(a.size(), at_a + 21);
      const size_t end_b = std::min(b.size(), at_b + 39);
      const size_t end_c = std::min(c.size(), at_c + 1);
      std::vector<StepPart> parts;
      if (end_c > at_c) parts.push_back({sc.get(), {c.begin() + at_c, c.begin() + end_c}, 0, {}});
      if (end_a > at_a) parts.push_back({sa.get(), {a.begin() + at_a, a.begin() + end_a}, 0, {}});
      if (end_b > at_b) parts.push_back({sb.get(), {b.begin() + at_b, b.begin() + end_b}, 0, {}});
      const auto rows = r.forward(parts);
      for (size_t i = 0; i < parts.size(); ++i) {
        r.commit(*parts[i].sequence);
        Rows& to = parts[i].sequence == sa.get()   ? got_a
                   : parts[i].sequence == sb.get() ? got_b
                                                   : got_c;
        to.insert(to.end(), rows[i].begin(), rows[i].end());
      }
      at_a = end_a;
      at_b = end_b;
      at_c = end_c;
    }
    EXPECT_TRUE(same_bits(got_a, expected_a)) << threads << " threads";
    EXPECT_TRUE(same_bits(got_b, expected_b)) << threads << " threads";
    EXPECT_TRUE(same_bits(got_c, expected_c)) << threads << " threads";
  }
}

TEST_P(Contract, ForksAndSnapshotsContinueAsAStraightRun) {
  MixerRig r = rig();
  const auto tokens = random_tokens(length(), 6);
  const auto other = random_tokens(40, 7);
  auto straight = r.sequence();
  const Rows expected = r.feed(*straight, tokens);
  for (const int64_t at : {1, 31, 32, 33, 64, 100}) {
    auto first = r.sequence();
    r.feed(*first, {tokens.begin(), tokens.begin() + at}, 29);
    const state::Snapshot snapshot = first->snapshot();
    // The owner goes elsewhere; two forks continue the original at different times.
    r.feed(*first, other, 3);
    state::SequenceState fork(r.layout, r.blocks, snapshot);
    const Rows a = r.feed(fork, {tokens.begin() + at, tokens.end()}, 13);
    EXPECT_TRUE(same_bits(a, {expected.begin() + at, expected.end()})) << "first fork at " << at;
    state::SequenceState late(r.layout, r.blocks, snapshot);
    const Rows b = r.feed(late, {tokens.begin() + at, tokens.end()});
    EXPECT_TRUE(same_bits(b, {expected.begin() + at, expected.end()})) << "second fork at " << at;
  }
}

TEST_P(Contract, RejectedDraftsLeaveNoTrace) {
  MixerRig r = rig();
  const auto tokens = random_tokens(110, 8);
  auto straight = r.sequence();
  const Rows expected = r.feed(*straight, tokens);
  for (const int64_t at : {1, 30, 32, 63, 64, 95}) {
    auto sequence = r.sequence();
    r.feed(*sequence, {tokens.begin(), tokens.begin() + at}, 17);
    for (const int64_t drafts : {1, 3, 8, 40}) {
      r.forward({{sequence.get(), random_tokens(drafts, 900 + drafts), drafts, {}}});
      r.commit(*sequence);
      ASSERT_EQ(sequence->position(), at);
    }
    const Rows rest = r.feed(*sequence, {tokens.begin() + at, tokens.end()}, 11);
    EXPECT_TRUE(same_bits(rest, {expected.begin() + at, expected.end()})) << "drafts at " << at;
  }
}

TEST_P(Contract, AcceptedDraftsEqualAStraightRun) {
  MixerRig r = rig();
  const auto tokens = random_tokens(200, 9);
  auto straight = r.sequence();
  const Rows expected = r.feed(*straight, tokens);
  auto sequence = r.sequence();
  Rows got = r.feed(*sequence, {tokens.begin(), tokens.begin() + 20});
  int64_t at = 20;
  // Verification steps: one committed token, right drafts, then a wrong one; the number of drafts
  // varies.
  for (int round = 0; at < 150; ++round) {
    const int64_t right = round % 8 == 7 ? 40 : round % 8;
    std::vector<int32_t> step(tokens.begin() + at, tokens.begin() + at + 1 + right);
    step.push_back(5000);
    const auto rows = r.forward({{sequence.get(), step, right + 1, {}}});
    std::vector<int32_t> accepted(static_cast<size_t>(right));
    std::iota(accepted.begin(), accepted.end(), 0);
    r.commit(*sequence, accepted);
    got.insert(got.end(), rows[0].begin(), rows[0].begin() + 1 + right);
    at += 1 + right;
    ASSERT_EQ(sequence->position(), at);
  }
  EXPECT_TRUE(same_bits(got, {expected.begin(), expected.begin() + at}));
}

// From the last place of a fold block over two boundaries: whatever number of drafts is kept, they
// and what follows are the straight run.
TEST_P(Contract, ChainsOfDraftsCrossFoldBoundaries) {
  MixerRig r = rig();
  const int64_t fold = r.layout.fold_length();
  const int64_t drafts = std::min<int64_t>(2 * fold + 3, state::SequenceState::kMaxDrafts);
  const auto tokens = random_tokens(fold + drafts + 10, 15);
  auto straight = r.sequence();
  const Rows expected = r.feed(*straight, tokens);
  const int64_t at = fold - 1;
  auto base = r.sequence();
  r.feed(*base, {tokens.begin(), tokens.begin() + at});
  const state::Snapshot snapshot = base->snapshot();
  // The specification is slow, and so are long blocks.
  const int64_t stride = GetParam().kernels == backend::KernelSet::reference ? 13
                         : fold > 8                                          ? 3
                                                                             : 1;
  for (int64_t accepted = 0; accepted <= drafts; accepted += stride) {
    state::SequenceState sequence(r.layout, r.blocks, snapshot);
    const std::vector<int32_t> step(tokens.begin() + at, tokens.begin() + at + 1 + drafts);
    const auto rows = r.forward({{&sequence, step, drafts, {}}});
    EXPECT_TRUE(same_bits(rows[0], {expected.begin() + at, expected.begin() + at + 1 + drafts}));
    std::vector<int32_t> path(static_cast<size_t>(accepted));
    std::iota(path.begin(), path.end(), 0);
    r.commit(sequence, path);
    const int64_t next = at + 1 + accepted;
    ASSERT_EQ(sequence.position(), next);
    const std::vector<int32_t> rest(tokens.begin() + next, tokens.end());
    EXPECT_TRUE(same_bits(r.feed(sequence, rest, 7), {expected.begin() + next, expected.end()}))
        << accepted << " accepted";
  }
}

// A tree of drafts, as much of it as there is room for: after the last committed token t0
//        d0 - d2 - d5
//   t0 <    \ d3
//        d1 - d4 - d6
TEST_P(Contract, TreeDraftsEqualEachPathAlone) {
  MixerRig r = rig();
  const auto tokens = random_tokens(90, 10);
  const std::vector<int32_t> draft = {2001, 2002, 2003, 2004, 2005, 2006, 2007};
  const std::vector<std::vector<int32_t>> paths = {{0, 2, 5}, {0, 3}, {1, 4, 6}};
  for (const int64_t at : {5, 40, 67}) {
    auto base = r.sequence();
    r.feed(*base, {tokens.begin(), tokens.begin() + at});
    const state::Snapshot snapshot = base->snapshot();
    const int64_t nodes = std::min<int64_t>(base->tree_room(1), 7);
    std::vector<int32_t> step = {tokens[static_cast<size_t>(at)]};
    step.insert(step.end(), draft.begin(), draft.begin() + nodes);
    std::vector<int32_t> parents = {0, 0, 1, 1, 2, 3, 5};
    parents.resize(static_cast<size_t>(nodes));
    for (std::vector<int32_t> path : paths) {
      std::erase_if(path, [&](int32_t d) { return d >= nodes; });
      state::SequenceState tree(r.layout, r.blocks, snapshot);
      const auto tree_rows = r.forward({{&tree, step, nodes, parents}});
      r.commit(tree, path);
      state::SequenceState chain(r.layout, r.blocks, snapshot);
      std::vector<int32_t> alone = {step[0]};
      for (const int32_t d : path) alone.push_back(draft[static_cast<size_t>(d)]);
      const Rows chain_rows = r.feed(chain, alone, 1);
      Rows from_tree = {tree_rows[0][0]};
      for (const int32_t d : path) from_tree.push_back(tree_rows[0][static_cast<size_t>(d) + 1]);
      EXPECT_TRUE(same_bits(from_tree, chain_rows))
          << "path of " << path.size() << " drafts at " << at;
      // The accepted path has become the sequence.
      const std::vector<int32_t> more(tokens.begin() + at + 1, tokens.end());
      EXPECT_TRUE(same_bits(r.feed(tree, more, 9), r.feed(chain, more)))
          << "after the tree at " << at;
    }
  }
}

TEST_P(Contract, ATreeMayGrowFromThePastAlone) {
  MixerRig r = rig();
  const auto tokens = random_tokens(40, 11);
  auto tree = r.sequence();
  r.feed(*tree, tokens);
  if (tree->tree_room(0) < 3) GTEST_SKIP() << "folds every " << r.layout.fold_length() << " tokens";
  const auto tree_rows = r.forward({{tree.get(), {3001, 3002, 3003}, 3, {-1, -1, 1}}});
  r.commit(*tree, {1, 2});
  auto chain = r.sequence();
  r.feed(*chain, tokens);
  const Rows alone = r.feed(*chain, {3002, 3003}, 1);
  EXPECT_TRUE(same_bits({tree_rows[0][1], tree_rows[0][2]}, alone));
}

TEST_P(Contract, ExtremeInputsStayFiniteAndEqual) {
  MixerRig r = rig();
  r.input_scale = 30;
  const auto tokens = random_tokens(100, 12);
  auto a = r.sequence();
  auto b = r.sequence();
  EXPECT_TRUE(same_bits(r.feed(*a, tokens, 9), r.feed(*b, tokens)));
}

TEST_P(Contract, DeclaredBytesAreAllocatedBytes) {
  MixerRig r = rig();
  auto sequence = r.sequence();
  r.feed(*sequence, random_tokens(150, 13), 50);
  int64_t declared = 0;
  int64_t saved = 0;  // where every complete page has a packed form
  for (const state::PageGroup& group : r.layout.groups) {
    const int64_t n = sequence->position();
    if (group.growth == state::Growth::folded) {
      declared += group.summary_bytes + (n % group.page_records > 0 ? group.page_bytes : 0);
      continue;
    }
    const int64_t first = group.first_kept(n) / group.page_records;
    declared += (group.pages_for(n) - first) * group.page_bytes;
    for (const int64_t i : group.parts) {
      const state::StatePart& part = r.layout.part(i);
      if (part.codec != nullptr)
        saved += (n / group.page_records - first) * (part.page_bytes() - part.packed_bytes());
    }
  }
  int64_t held = 0;
  for (int64_t g = 0; g < state::kGrowthClasses; ++g)
    held += sequence->bytes(static_cast<state::Growth>(g));
  EXPECT_EQ(held, r.blocks.live_bytes());
  // An empty open page may be kept for the next record.
  int64_t slack = 0;
  for (const state::PageGroup& group : r.layout.groups)
    if (group.growth == state::Growth::folded) slack += group.page_bytes;
  EXPECT_GE(held, declared - saved);
  if (saved > 0) {
    EXPECT_LT(held, declared);
  }
  EXPECT_LE(held, declared + slack);
  sequence.reset();
  EXPECT_EQ(r.blocks.live_bytes(), 0);
}

// The fast kernels against the specification: at most twice the error of the kind's naive form.
// With float32 records: a value beside a step of bfloat16 may fall to either side, which says
// nothing of arithmetic (attention_test compares kernels over the same bfloat16 records).
TEST_P(Contract, FastEqualsReferenceWithinTheBudget) {
  if (GetParam().kernels == backend::KernelSet::reference) GTEST_SKIP() << "the reference itself";
  const sublayer::Kind& kind = *GetParam().kind;
  sublayer::Case c = GetParam().mixer_case;
  c.precision.records = DType::f32;
  MixerRig fast(kind, c, backend::KernelSet::cpu, 2);
  MixerRig slow(kind, c, backend::KernelSet::reference, 2);
  const auto tokens = random_tokens(131, 14);
  const auto all = [&](MixerRig& r) {
    auto sequence = r.sequence();
    std::vector<float> values;
    for (const auto& row : r.feed(*sequence, tokens))
      values.insert(values.end(), row.begin(), row.end());
    return values;
  };
  std::vector<float> x;
  for (size_t t = 0; t < tokens.size(); ++t)
    for (const float value : fast.input(tokens[t], static_cast<int64_t>(t))) x.push_back(value);
  sublayer::RandomWeights weights = fast.weights();
  const std::vector<float> naive =
      kind.naive({fast.context, c.params, c.precision, weights, std::ssize(tokens), x});
  const std::vector<float> got = all(fast), expected = all(slow);
  ASSERT_EQ(naive.size(), expected.size());
  const double error = ops::relative_error(got, expected);
  const double budget = ops::error_budget(naive, expected);
  RecordProperty("error_over_budget", std::to_string(error / budget));
  EXPECT_LE(error, budget);
}

// What a design says that a token costs, beside what the profile counts of one.
TEST_P(Contract, CostIsWithinAQuarterOfWhatIsCounted) {
  MixerRig r = rig();
  constexpr int64_t kPosition = 80;
  auto sequence = r.sequence();
  r.feed(*sequence, random_tokens(kPosition, 15));
  backend::Profile profile;
  r.context.profile = &profile;
  r.forward({{sequence.get(), {1}, 0, {}}});
  backend::Work counted;
  for (const backend::Profile::Part& part : profile.parts()) counted += part.work;
  const sublayer::Cost cost = r.design->cost(kPosition);
  const double flops = counted.int8_ops + counted.fp32_flops;
  EXPECT_NEAR(cost.flops, flops, 0.25 * flops);
  const double bytes = static_cast<double>(r.mixer->weight_bytes()) + cost.state_read_bytes;
  EXPECT_NEAR(bytes, counted.bytes, 0.25 * counted.bytes);
}

INSTANTIATE_TEST_SUITE_P(Mixers, Contract, ::testing::ValuesIn(settings()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace heddle::test
