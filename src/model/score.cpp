#include "model/score.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/rng.h"
#include "state/snapshot_file.h"

namespace heddle::model {
namespace {

constexpr int64_t kLogitBytes = int64_t{64} << 20;  // of logits in memory at a time
constexpr int64_t kDrafts = 6;
constexpr int64_t kLongestOther = 4096;  // the sequences beside begin anew after so many tokens

// What one sequence takes part in a step with.
struct Part {
  state::SequenceState* sequence = nullptr;
  std::vector<int32_t> tokens;
  std::vector<int32_t> drafts;
  std::vector<int32_t> parents;  // of drafts; empty: a chain
};

// Everything that an engine would own: pages, sequences, scratch memory.
class Session {
 public:
  Session(const Model& model, ThreadPool& pool, const ScoreOptions& options, Rng& rng)
      : model_(model),
        context_{pool, scratch_, options.kernels},
        rng_(rng),
        chunk_(options.chunk),
        batch_(model.layout()) {
    main_ = std::make_unique<state::SequenceState>(model.layout(), blocks_);
    others_.resize(static_cast<size_t>(options.batch_with));
  }

  // The text's next tokens (and drafts after them, which are rolled back) in one step with the
  // others'. sink: logits of the committed rows.
  void step(std::span<const int32_t> tokens, std::span<const int32_t> drafts,
            std::vector<int32_t> parents, const Model::LogitSink& sink) {
    std::vector<Part> parts;
    for (auto& other : others_) parts.push_back(random_part(other));
    Part own;
    own.sequence = main_.get();
    own.tokens.assign(tokens.begin(), tokens.end());
    own.drafts.assign(drafts.begin(), drafts.end());
    own.parents = std::move(parents);
    const int64_t place = rng_.below(std::ssize(parts) + 1);
    parts.insert(parts.begin() + place, std::move(own));
    run(parts, place, sink);
  }

  state::SequenceState& sequence() { return *main_; }
  state::BlockPool& blocks() { return blocks_; }
  void resume(const state::Snapshot& snapshot) {
    main_ = std::make_unique<state::SequenceState>(model_.layout(), blocks_, snapshot);
  }

 private:
  // Some tokens, often one, sometimes with drafts.
  Part random_part(std::unique_ptr<state::SequenceState>& sequence) {
    if (!sequence || sequence->position() > kLongestOther)
      sequence = std::make_unique<state::SequenceState>(model_.layout(), blocks_);
    Part part;
    part.sequence = sequence.get();
    const int64_t committed =
        rng_.below(3) == 0 ? 1 : 1 + rng_.below(std::min<int64_t>(chunk_, 96));
    const int64_t drafts = rng_.below(3) == 0 ? rng_.below(kDrafts) : 0;
    for (int64_t i = 0; i < committed; ++i) part.tokens.push_back(random_token());
    for (int64_t i = 0; i < drafts; ++i) part.drafts.push_back(random_token());
    return part;
  }

  int32_t random_token() { return static_cast<int32_t>(rng_.below(model_.spec().vocab_size)); }

  // sink: logits of the committed rows of parts[place].
  void run(const std::vector<Part>& parts, int64_t place, const Model::LogitSink& sink) {
    batch_.clear();
    for (const Part& part : parts) {
      const bool wanted = &part == &parts[static_cast<size_t>(place)];
      batch_.add(*part.sequence, part.tokens, {0, wanted ? std::ssize(part.tokens) : 0},
                 {part.drafts, part.parents});
    }
    const int64_t row_bytes = model_.spec().vocab_size * static_cast<int64_t>(sizeof(float));
    const int64_t block = std::max<int64_t>(1, kLogitBytes / row_bytes);
    model_.forward(context_, batch_, block, sink);
    for (int64_t i = 0; i < batch_.segments(); ++i) batch_.commit(i);
  }

  const Model& model_;
  state::BlockPool blocks_;  // outlives the sequences below
  backend::Arena scratch_;
  backend::Context context_;
  Rng& rng_;
  int64_t chunk_;
  state::StepBatch batch_;
  std::unique_ptr<state::SequenceState> main_;
  std::vector<std::unique_ptr<state::SequenceState>> others_;
};

// Saves the session's sequence, and makes a new session that knows only the file.
Result<std::unique_ptr<Session>> restart(const Model& model, ThreadPool& pool,
                                         const ScoreOptions& options, Rng& rng,
                                         std::unique_ptr<Session> session,
                                         std::span<const int32_t> done) {
  const state::SnapshotIdentity identity = model.snapshot_identity();
  HEDDLE_TRY_STATUS(state::save_snapshot(options.snapshot_file, model.layout(), identity, done,
                                         session->sequence().snapshot()));
  session.reset();
  auto fresh = std::make_unique<Session>(model, pool, options, rng);
  HEDDLE_TRY(const state::SavedSnapshot saved,
             state::load_snapshot(options.snapshot_file, model.layout(), identity, fresh->blocks(),
                                  INT64_MAX));
  if (!std::equal(saved.tokens.begin(), saved.tokens.end(), done.begin(), done.end()))
    return fail("{}: the snapshot holds other tokens", options.snapshot_file);
  fresh->resume(saved.snapshot);
  return fresh;
}

}  // namespace

Status run_logits(const Model& model, ThreadPool& pool, std::span<const int32_t> ids,
                  const ScoreOptions& options, const Model::LogitSink& sink) {
  const int64_t total = std::ssize(ids);
  if (total == 0) return fail("no tokens");
  for (const int32_t id : ids) {
    if (id < 0 || id >= model.spec().vocab_size)
      return fail("token id {}: the vocabulary has {} tokens", id, model.spec().vocab_size);
  }
  if (options.chunk < 1) return fail("a chunk of {} tokens", options.chunk);
  Rng rng(options.seed);
  auto session = std::make_unique<Session>(model, pool, options, rng);
  int64_t at = 0;
  int64_t rounds = options.draft_at >= 0 ? 2 : 0;  // a chain, then a tree
  bool restored = false;
  const auto forward = [&](int64_t count, int64_t first) {
    return [&sink, first, count](int64_t row, int64_t rows, const float* logits) {
      HEDDLE_CHECK(row + rows <= count);
      sink(first + row, rows, logits);
    };
  };
  while (at < total) {
    if (at == options.restore_at && !restored) {
      restored = true;
      HEDDLE_TRY(session, restart(model, pool, options, rng, std::move(session),
                                  ids.first(static_cast<size_t>(at))));
    }
    const bool draft = rounds > 0 && at >= options.draft_at;
    int64_t count = draft ? 1 : std::min(options.chunk, total - at);
    for (const int64_t stop : {options.restore_at, options.draft_at}) {
      if (stop > at) count = std::min(count, stop - at);
    }
    std::vector<int32_t> drafts, parents;
    if (draft) {
      const bool tree = rounds == 1;
      const int64_t room = tree ? std::min(kDrafts, session->sequence().tree_room(count)) : kDrafts;
      for (int64_t d = 0; d < room; ++d) {
        drafts.push_back(static_cast<int32_t>(rng.below(model.spec().vocab_size)));
        if (tree) parents.push_back(static_cast<int32_t>(count - 1 + rng.below(d + 1)));
      }
      --rounds;
    }
    session->step(ids.subspan(static_cast<size_t>(at), static_cast<size_t>(count)), drafts,
                  std::move(parents), forward(count, at));
    at += count;
  }
  return {};
}

Result<std::vector<double>> token_nll(const Model& model, ThreadPool& pool,
                                      std::span<const int32_t> ids, const ScoreOptions& options) {
  if (ids.size() < 2) return fail("{} tokens; at least 2 are needed", ids.size());
  std::vector<double> nll(ids.size() - 1);
  const int64_t vocab = model.spec().vocab_size;
  const auto sink = [&](int64_t first, int64_t count, const float* logits) {
    pool.parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const auto row = static_cast<size_t>(first + r);
        if (row >= nll.size()) continue;
        const float* values = logits + r * vocab;
        const float highest = *std::max_element(values, values + vocab);
        double sum = 0;
        for (int64_t v = 0; v < vocab; ++v)
          sum += static_cast<double>(std::exp(values[v] - highest));
        nll[row] = std::log(sum) + static_cast<double>(highest) -
                   static_cast<double>(values[ids[row + 1]]);
      }
    });
  };
  HEDDLE_TRY_STATUS(run_logits(model, pool, ids, options, sink));
  return nll;
}

}  // namespace heddle::model
