#pragma once
// A sequence kernel of a recurrent mixer over real sequence states, and what every one of them owes
// the state contract.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/context.h"
#include "state/sequence_state.h"
#include "test/support/step.h"

namespace heddle::test {

class FoldRig {
 public:
  // width: of a row of y.
  FoldRig(const std::vector<state::StatePart>& parts, int64_t width, backend::KernelSet kernels,
          int threads)
      : pool(threads), context{pool, scratch, kernels}, width_(width) {
    layout = *state::StateLayout::make({parts});
    blocks.set_poison(true);
  }
  virtual ~FoldRig() = default;

  // What the kernel reads of a row: a pure function of token and position.
  virtual std::vector<float> input(int32_t token, int64_t position) const = 0;

  state::SequenceState sequence() { return state::SequenceState(layout, blocks); }

  // Runs a step and commits nothing. Output rows of all parts in order.
  Rows forward(const std::vector<StepPart>& parts) {
    const StepLayout step(
        parts, layout, [this](int32_t token, int64_t position) { return input(token, position); });
    OutputRows y(step.batch().tokens, width_);
    const state::StateView state = step.state();
    run(step.batch(), state, step.x(), y.data());
    return y.take();
  }

  // Feeds `tokens` in chunks and commits them.
  Rows feed(state::SequenceState& sequence, std::span<const int32_t> tokens, int64_t chunk) {
    Rows result;
    for (size_t i = 0; i < tokens.size(); i += static_cast<size_t>(chunk)) {
      const auto part = tokens.subspan(i, std::min(tokens.size() - i, static_cast<size_t>(chunk)));
      for (auto& row : forward({{&sequence, {part.begin(), part.end()}, 0, {}}}))
        result.push_back(std::move(row));
      commit(sequence);
    }
    return result;
  }

  // All of them in one step.
  Rows straight(const std::vector<int32_t>& tokens) {
    state::SequenceState fresh = sequence();
    return feed(fresh, tokens, static_cast<int64_t>(tokens.size()));
  }

  void commit(state::SequenceState& sequence, std::span<const int32_t> accepted = {}) {
    sequence.commit(accepted);
  }

  ThreadPool pool;
  backend::Arena scratch;
  backend::Context context;
  state::StateLayout layout;
  state::BlockPool blocks;

 protected:
  virtual void run(const state::BatchView& batch, const state::StateView& state, const float* x,
                   float* y) = 0;

 private:
  int64_t width_;
};

// ||a - b|| / ||b||
inline double distance(const Rows& a, const Rows& b) {
  double error = 0, norm = 0;
  for (size_t t = 0; t < a.size(); ++t)
    for (size_t i = 0; i < a[t].size(); ++i) {
      error += std::pow(static_cast<double>(a[t][i]) - static_cast<double>(b[t][i]), 2);
      norm += std::pow(static_cast<double>(b[t][i]), 2);
    }
  return std::sqrt(error / norm);
}

// Chunks of a sequence against the whole of it.
inline void check_chunks(FoldRig& rig) {
  const std::vector<int32_t> tokens = random_tokens(131, 4);
  const Rows whole = rig.straight(tokens);
  for (const int64_t chunk : {1, 7, 31, 32, 33, 63, 64, 65}) {
    state::SequenceState sequence = rig.sequence();
    EXPECT_TRUE(same_bits(rig.feed(sequence, tokens, chunk), whole)) << "chunk " << chunk;
  }
}

// A ragged batch against each of its sequences alone. make(threads): a rig.
template <class Make>
void check_batches(Make make) {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<Rows> alone;
  const std::vector<int64_t> before = {0, 5, 31, 32, 60};
  const std::vector<int64_t> chunk = {40, 1, 1, 0, 70};
  auto first = make(1);
  for (size_t n = 0; n < before.size(); ++n) {
    tokens.push_back(random_tokens(before[n] + chunk[n], 20 + n));
    alone.push_back(first.straight(tokens.back()));
  }
  for (const int threads : {1, 2, 3}) {
    auto rig = make(threads);
    std::vector<state::SequenceState> sequences;
    for (size_t n = 0; n < tokens.size(); ++n) {
      sequences.push_back(rig.sequence());
      rig.feed(sequences.back(), std::span(tokens[n]).first(static_cast<size_t>(before[n])), 16);
    }
    std::vector<StepPart> steps;
    Rows expected;
    for (size_t n = 0; n < tokens.size(); ++n) {
      steps.push_back({&sequences[n], {tokens[n].begin() + before[n], tokens[n].end()}, 0, {}});
      expected.insert(expected.end(), alone[n].begin() + before[n], alone[n].end());
    }
    EXPECT_TRUE(same_bits(rig.forward(steps), expected)) << threads << " threads";
  }
}

// More threads than heads: a head's panels are split, in decode and in chunks that go on after a
// fold.
template <class Make>
void check_splits(Make make) {
  const std::vector<int32_t> tokens = random_tokens(70, 5);
  auto one = make(1);
  const Rows expected = one.straight(tokens);
  for (const int64_t chunk : {3, 50, 70}) {
    auto many = make(6);
    state::SequenceState sequence = many.sequence();
    EXPECT_TRUE(same_bits(many.feed(sequence, tokens, chunk), expected)) << "chunk " << chunk;
  }
}

// A tree of drafts after `committed` tokens of a step, and every root-to-leaf path of it alone.
inline void check_tree(FoldRig& rig, int64_t before, int64_t committed,
                       const std::vector<int32_t>& shape) {
  const std::vector<int32_t> prefix = random_tokens(before, 6);
  std::vector<int32_t> tokens = random_tokens(committed, 7);
  const std::vector<int32_t> drafts = random_tokens(static_cast<int64_t>(shape.size()), 8);
  tokens.insert(tokens.end(), drafts.begin(), drafts.end());
  std::vector<int32_t> parents;  // rows of the segment; -1 in `shape`: the last committed row
  for (const int32_t p : shape) parents.push_back(p + static_cast<int32_t>(committed));
  state::SequenceState sequence = rig.sequence();
  rig.feed(sequence, prefix, 9);
  const state::Snapshot start = sequence.snapshot();
  const Rows tree = rig.forward({{&sequence, tokens, static_cast<int64_t>(shape.size()), parents}});
  for (size_t leaf = 0; leaf < shape.size(); ++leaf) {
    std::vector<int32_t> path;
    for (auto d = static_cast<int32_t>(leaf); d >= 0; d = shape[static_cast<size_t>(d)])
      path.insert(path.begin(), d);
    std::vector<int32_t> line(tokens.begin(), tokens.begin() + committed);
    for (const int32_t d : path) line.push_back(drafts[static_cast<size_t>(d)]);
    state::SequenceState alone(rig.layout, rig.blocks, start);
    const Rows expected = rig.feed(alone, line, 4);
    EXPECT_TRUE(same_bits({tree[static_cast<size_t>(committed) + leaf]}, {expected.back()}))
        << "before " << before << " committed " << committed << " draft " << leaf;
  }
  // The deepest path is accepted and the sequence goes on as if there had been no drafts.
  std::vector<int32_t> accepted;
  for (auto d = static_cast<int32_t>(shape.size()) - 1; d >= 0; d = shape[static_cast<size_t>(d)])
    accepted.insert(accepted.begin(), d);
  rig.commit(sequence, accepted);
  std::vector<int32_t> line(tokens.begin(), tokens.begin() + committed);
  for (const int32_t d : accepted) line.push_back(drafts[static_cast<size_t>(d)]);
  const std::vector<int32_t> more = random_tokens(40, 9);
  line.insert(line.end(), more.begin(), more.end());
  state::SequenceState alone(rig.layout, rig.blocks, start);
  Rows expected = rig.feed(alone, line, 64);
  expected.erase(expected.begin(), expected.end() - 40);
  EXPECT_TRUE(same_bits(rig.feed(sequence, more, 40), expected)) << "after acceptance";
}

inline void check_trees(FoldRig& rig) {
  const std::vector<int32_t> tree = {-1, -1, 0, 0, 1, 2, 4, 5};
  const std::vector<int32_t> chain = {-1, 0, 1, 2, 3};
  check_tree(rig, 37, 1, tree);
  check_tree(rig, 30, 2, tree);  // the committed rows complete a block
  check_tree(rig, 20, 4, tree);  // drafts up to the boundary
  check_tree(rig, 0, 1, tree);
  check_tree(rig, 26, 1, chain);  // drafts complete a block
  check_tree(rig, 29, 1, chain);  // and go on behind it
  check_tree(rig, 58, 1, chain);
  check_tree(rig, 10, 60, chain);
}

}  // namespace heddle::test
