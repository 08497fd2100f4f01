// What a step costs before a model runs: sequences found in the prefix cache, forked, and begun, at
// the depth where lists of blocks are long. The records themselves are one byte wide.
#include <fmt/format.h>

#include <numeric>
#include <utility>

#include "base/check.h"
#include "bench/kernel_suite.h"
#include "state/prefix_cache.h"
#include "state/step.h"

namespace heddle::bench {
namespace {

constexpr int64_t kLayers = 28;
constexpr int64_t kDepth = 32768;
constexpr int64_t kSequences = 128;

state::StateLayout attention_layers() {
  const state::StatePart keys{.name = "k", .dtype = DType::bf16, .strip = 1};
  const state::StatePart values{.name = "v", .dtype = DType::bf16, .strip = 1};
  auto layout =
      state::StateLayout::make(std::vector<std::vector<state::StatePart>>(kLayers, {keys, values}));
  HEDDLE_CHECK(layout.has_value(), "{}", layout.error().message);
  return std::move(*layout);
}

}  // namespace

void bookkeeping_kernels(KernelSuite& suite) {
  const std::string shape = fmt::format("{} layers at {}", kLayers, kDepth);
  if (!suite.wants("match and fork", shape, {}) && !suite.wants("build a step", shape, {})) return;
  const state::StateLayout layout = attention_layers();
  state::BlockPool pool;
  state::SequenceState first(layout, pool);
  first.begin_step(kDepth, 0);
  first.commit();
  std::vector<int32_t> tokens(kDepth);
  std::iota(tokens.begin(), tokens.end(), 0);
  state::PrefixCache cache(layout, {.max_bytes = int64_t{1} << 40});
  cache.insert("", tokens, first.snapshot());
  suite.measure({.kernel = "match and fork",
                 .shape = shape,
                 .tokens = kDepth,
                 .call = [&](backend::Context&, int64_t) {
                   auto match = cache.match("", tokens, kDepth);
                   const state::SequenceState fork(layout, pool, std::move(match.snapshot));
                   HEDDLE_CHECK(fork.position() == kDepth, "resumed at {}", fork.position());
                 }});
  std::vector<state::SequenceState> sequences;
  for (int64_t i = 0; i < kSequences; ++i) sequences.emplace_back(layout, pool, first.snapshot());
  state::StepBatch step(layout);
  const int32_t token = 1;
  suite.measure({.kernel = "build a step",
                 .shape = shape,
                 .tokens = kSequences,
                 .call = [&](backend::Context&, int64_t) {
                   step.clear();
                   for (state::SequenceState& sequence : sequences)
                     step.add(sequence, {&token, 1}, {0, 1});
                   for (int64_t i = 0; i < step.segments(); ++i) step.commit(i);
                 }});
}

}  // namespace heddle::bench
