// A row is read once, in blocks of 512 logits: the highest of a block and, where the whole row may
// be drawn from, the sum of e^((x - highest) / temperature). A token is then found through the
// blocks' sums: one block's weights are computed again. Cutting (top-k, top-p, min-p) never sorts:
// a bound that nothing of the result lies below comes from the blocks (the k-th highest block, or
// the weight that all the tokens below it together cannot make 1 - top_p from); what lies above is
// gathered, tens to thousands of tokens as a rule, and the exact cut is found by bisection over the
// bits of a float.
//
// Threads share blocks first, then rows. Blocks end at fixed positions, sums inside them have 16
// lanes and one tree, and sums of blocks are taken in float64 in order, so the bits are the same
// however the work was shared, and on every target.
//
// Floor: the logits once. With temperature an exponential for each, which is what takes the time
// where the row is still in the caches.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"
#include "base/rng.h"
#include "base/round_up.h"
#include "ops/sample/sample.h"
#include "ops/sample/sample_kernels.h"

namespace heddle::ops {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
// Blocks that are worth waking another thread for.
constexpr int64_t kScanGrain = 8;

// Floats in their order as integers, and back.
uint32_t key_of(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
float float_of(uint32_t key) {
  return std::bit_cast<float>((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

float highest_of(const Scan& scan) {
  return *std::max_element(scan.highest, scan.highest + scan.blocks());
}

double total_of(std::span<const float> masses) {
  double total = 0;
  for (const float mass : masses) total += mass;
  return total;
}

std::span<const float> masses_of(const Scan& scan) {
  return {scan.mass, static_cast<size_t>(scan.blocks())};
}

// A finite logit below which none of the `count` highest lies: at least so many blocks reach it.
// work [blocks]
float bound_of_count(const Scan& scan, int64_t count, float* work) {
  if (count >= scan.blocks()) return kLowest;
  std::copy_n(scan.highest, scan.blocks(), work);
  std::nth_element(work, work + (count - 1), work + scan.blocks(), std::greater<>());
  return std::max(work[count - 1], kLowest);
}

// A finite logit below which every weight is less than this one.
float bound_of_weight(const Scan& scan, float highest, double weight) {
  const double logit = highest + std::log(weight) / static_cast<double>(scan.inverse_temperature);
  return std::max(std::nextafter(static_cast<float>(std::max<double>(logit, kLowest)), -kInfinity),
                  kLowest);
}

// The highest logit such that measure(logit), of what is not below it, reaches `enough`; `lowest`
// if none does. What was found to lie below is dropped on the way: the later steps are all near the
// result.
template <class Measure>
float cut(Candidates& c, float lowest, float highest, double enough, Measure measure) {
  constexpr int kDroppingSteps = 8;
  uint32_t reached = key_of(lowest);
  uint32_t beyond = key_of(highest) + 1;
  for (int step = 0; beyond - reached > 1; ++step) {
    const uint32_t middle = reached + (beyond - reached) / 2;
    const float logit = float_of(middle);
    if (static_cast<double>(measure(logit)) >= enough) {
      reached = middle;
      if (step < kDroppingSteps) cpu::filter(c, logit);
    } else {
      beyond = middle;
    }
  }
  return float_of(reached);
}

float next_above(float logit) { return float_of(key_of(logit) + 1); }

// What lies above `least`, and the first `ties` that equal it.
void keep(Candidates& c, float least, int64_t ties) {
  cpu::filter(c, least);
  if (c.count <= cpu::count_from(c, next_above(least)) + ties) return;
  int64_t kept = 0;
  for (int64_t i = 0; i < c.count; ++i) {
    if (c.logit[i] == least && ties-- <= 0) continue;
    c.logit[kept] = c.logit[i];
    c.token[kept] = c.token[i];
    c.weight[kept] = c.weight[i];
    ++kept;
  }
  c.count = kept;
  std::fill_n(c.logit + kept, 16, -kInfinity);
}

// The `count` highest.
void keep_count(Candidates& c, float lowest, float highest, int64_t count) {
  if (c.count <= count) return;
  const auto measure = [&](float least) { return cpu::count_from(c, least); };
  const float least = cut(c, lowest, highest, static_cast<double>(count), measure);
  keep(c, least, count - measure(next_above(least)));
}

// The highest that together weigh `enough`.
void keep_mass(Candidates& c, float lowest, float highest, double enough) {
  const auto measure = [&](float least) { return cpu::mass_from(c, least); };
  const float least = cut(c, lowest, highest, enough, measure);
  const double missing = enough - measure(next_above(least));
  const auto tie = std::find(c.logit, c.logit + c.count, least) - c.logit;
  const double ties = tie < c.count ? std::ceil(missing / c.weight[tie]) : 1;
  // The highest weighs 1, and rounding may find nothing missing; a weight of 0 fills no gap.
  keep(c, least, static_cast<int64_t>(std::clamp<double>(ties, 1, 1e9)));
}

void keep_weight(Candidates& c, double least) {
  int64_t kept = 0;
  for (int64_t i = 0; i < c.count; ++i) {
    if (c.weight[i] < least) continue;
    c.token[kept] = c.token[i];
    c.weight[kept] = c.weight[i];
    ++kept;
  }
  c.count = kept;
}

// Where `target` of the sum of masses falls, and how far into it, from 0 to 1. Something must weigh
// more than nothing.
struct Place {
  int64_t index = 0;
  double fraction = 1;
};
Place place(std::span<const float> masses, double target) {
  Place found;
  for (size_t i = 0; i < masses.size(); ++i) {
    if (masses[i] <= 0) continue;
    found.index = static_cast<int64_t>(i);
    if (target < masses[i]) {
      found.fraction = target / masses[i];
      return found;
    }
    target -= masses[i];
  }
  return found;  // rounding took target past the last one
}

int64_t draw(std::span<const float> weights, double fraction) {
  return place(weights, fraction * total_of(weights)).index;
}

int32_t draw_from_row(const Scan& scan, double unit) {
  const std::span<const float> masses = masses_of(scan);
  const Place block = place(masses, unit * total_of(masses));
  float weights[kSampleBlock];
  cpu::weigh_block(scan, block.index, weights);
  const int64_t first = block.index * kSampleBlock;
  const auto count = static_cast<size_t>(std::min(kSampleBlock, scan.vocab - first));
  return static_cast<int32_t>(first + draw({weights, count}, block.fraction));
}

// Uses scan.mass for the candidates' blocks.
int32_t draw_from(const Candidates& c, const Scan& scan, double unit) {
  cpu::sum_blocks(c, scan.mass);
  const std::span<const float> masses(scan.mass, static_cast<size_t>(c.blocks()));
  const Place block = place(masses, unit * total_of(masses));
  const int64_t first = block.index * kSampleBlock;
  const auto count = static_cast<size_t>(std::min(kSampleBlock, c.count - first));
  return c.token[first + draw({c.weight + first, count}, block.fraction)];
}

int32_t first_highest(const Scan& scan, float highest) {
  int64_t block = 0;
  while (scan.highest[block] != highest) ++block;
  const float* begin = scan.logits + block * kSampleBlock;
  const float* end = scan.logits + scan.vocab;
  return static_cast<int32_t>(std::find(begin, end, highest) - scan.logits);
}

bool cuts_by_rank(const SamplingParams& params, int64_t vocab) {
  return params.top_k > 0 && params.top_k < vocab;
}
bool cuts(const SamplingParams& params, int64_t vocab) {
  return cuts_by_rank(params, vocab) || params.top_p < 1 || params.min_p > 0;
}

// Top-k, top-p, min-p, and a draw of what they leave.
int32_t draw_with_cuts(const Scan& scan, const SamplingParams& params, float highest, double unit,
                       Candidates& c) {
  const bool by_rank = cuts_by_rank(params, scan.vocab);
  const bool by_mass = params.top_p < 1;
  float least = kLowest;
  double total = 0;
  if (by_rank) {
    least = bound_of_count(scan, params.top_k, c.logit);
  } else if (by_mass) {
    // Half of what the tokens left out may weigh together, an equal part for every token.
    total = total_of(masses_of(scan));
    least = bound_of_weight(scan, highest,
                            (1 - params.top_p) * total / 2 / static_cast<double>(scan.vocab));
  }
  // Top-p counts what top-k left, whether or not min-p lets it through.
  if (params.min_p > 0 && !(by_rank && by_mass))
    least = std::max(least, bound_of_weight(scan, highest, params.min_p / 2));
  cpu::gather(scan, least, c);
  if (by_rank) keep_count(c, least, highest, params.top_k);
  cpu::weigh(c, highest, scan.inverse_temperature);
  if (by_mass) {
    if (by_rank) total = cpu::mass_from(c, kLowest);
    keep_mass(c, least, highest, params.top_p * total);
  }
  if (params.min_p > 0) keep_weight(c, params.min_p);
  return draw_from(c, scan, unit);
}

// The model's own log probabilities, of which `top` are listed. Returns log sum e^logit.
double list_likeliest(const Scan& scan, float highest, int64_t top, Candidates& c, Sample& out) {
  cpu::scale_blocks(scan, highest);
  const double norm = highest + std::log(total_of(masses_of(scan)));
  if (top == 0) return norm;
  const float least = bound_of_count(scan, top, c.logit);
  cpu::gather(scan, least, c);
  keep_count(c, least, highest, top);
  std::vector<int32_t> tokens(c.token, c.token + c.count);
  std::stable_sort(tokens.begin(), tokens.end(),
                   [&](int32_t a, int32_t b) { return scan.logits[a] > scan.logits[b]; });
  for (const int32_t token : tokens)
    out.top.push_back({token, static_cast<float>(scan.logits[token] - norm)});
  return norm;
}

// One call of sample().
class Sampler {
 public:
  Sampler(backend::Context& ctx, std::span<const SampleRow> rows, int64_t vocab)
      : ctx_(ctx), scope_(ctx.scratch), rows_(rows), vocab_(vocab), out_(rows.size()) {
    norms_.resize(rows.size());
    before_.resize(rows.size());
  }

  std::vector<Result<Sample>> run() {
    read_distributions();
    ctx_.pool.parallel_for(count(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        if (row(r).given < 0 && out(r))
          adjust_logits(row(r), vocab_, logprobs(r) >= 0 ? &before_[index(r)] : nullptr);
      }
    });
    choose();
    return std::move(out_);
  }

 private:
  static size_t index(int64_t r) { return static_cast<size_t>(r); }
  int64_t count() const { return static_cast<int64_t>(rows_.size()); }
  const SampleRow& row(int64_t r) const { return rows_[index(r)]; }
  Result<Sample>& out(int64_t r) { return out_[index(r)]; }
  // -1: none are asked for.
  int logprobs(int64_t r) const {
    return row(r).given >= 0 ? std::max(row(r).params->logprobs, 0) : row(r).params->logprobs;
  }

  Scan scan_of(int64_t r, double temperature, bool sums) {
    Scan scan;
    scan.row = r;
    scan.logits = row(r).logits;
    scan.vocab = vocab_;
    scan.inverse_temperature =
        static_cast<float>(std::min<double>(1 / temperature, std::numeric_limits<float>::max()));
    scan.sums = sums;
    const int64_t padded = round_up(round_up(vocab_, kSampleBlock) / kSampleBlock, 16);
    scan.highest = ctx_.scratch.allocate<float>(padded);
    scan.mass = ctx_.scratch.allocate<float>(padded);
    std::fill_n(scan.highest, padded, -kInfinity);
    std::fill_n(scan.mass, padded, 0.0f);
    return scan;
  }

  // Threads share the blocks of all rows.
  void read(std::span<const Scan> scans) {
    const int64_t blocks = round_up(vocab_, kSampleBlock) / kSampleBlock;
    ctx_.pool.parallel_for(static_cast<int64_t>(scans.size()) * blocks, kScanGrain,
                           [&](int64_t begin, int64_t end, int) {
                             while (begin < end) {
                               const int64_t scan = begin / blocks;
                               const int64_t stop = std::min(end, (scan + 1) * blocks);
                               cpu::scan_blocks(scans[index(scan)], begin - scan * blocks,
                                                stop - scan * blocks);
                               begin = stop;
                             }
                           });
  }

  // Threads share the rows: fn(scan, highest logit, candidates' memory if `with_candidates`). Rows
  // without a highest logit get their error instead.
  template <class F>
  void finish(std::span<const Scan> scans, bool with_candidates, F fn) {
    const auto rows = static_cast<int64_t>(scans.size());
    const int64_t slots = std::min<int64_t>(rows, ctx_.pool.threads());
    std::vector<Candidates> memory(index(slots));
    if (with_candidates) {
      for (Candidates& c : memory) {
        const int64_t padded = round_up(vocab_, 16) + 16;
        c.logit = ctx_.scratch.allocate<float>(padded);
        c.token = ctx_.scratch.allocate<int32_t>(padded);
        c.weight = ctx_.scratch.allocate<float>(padded);
      }
    }
    ctx_.pool.parallel_for(rows, 1, [&](int64_t begin, int64_t end, int thread) {
      Candidates& candidates = memory[index(rows > slots ? thread : begin)];
      for (int64_t i = begin; i < end; ++i) {
        const Scan& scan = scans[index(i)];
        const float highest = highest_of(scan);
        if (highest == kInfinity) {
          out(scan.row) = not_finite();
        } else if (highest == -kInfinity) {
          out(scan.row) = nothing_allowed();
        } else {
          fn(scan, highest, candidates);
        }
      }
    });
  }

  void read_distributions() {
    std::vector<Scan> scans;
    bool lists = false;
    for (int64_t r = 0; r < count(); ++r) {
      if (logprobs(r) < 0) continue;
      scans.push_back(scan_of(r, 1, true));
      lists |= logprobs(r) > 0;
    }
    if (scans.empty()) return;
    read(scans);
    finish(scans, lists, [&](const Scan& scan, float highest, Candidates& candidates) {
      const int64_t r = scan.row;
      Sample& sample = *out(r);
      norms_[index(r)] = list_likeliest(scan, highest, logprobs(r), candidates, sample);
      if (row(r).given < 0) return;
      sample.token = row(r).given;
      sample.logprob = static_cast<float>(scan.logits[sample.token] - norms_[index(r)]);
    });
  }

  void choose() {
    std::vector<Scan> scans;
    bool any_cuts = false;
    for (int64_t r = 0; r < count(); ++r) {
      const SamplingParams& params = *row(r).params;
      if (row(r).given >= 0 || !out(r)) continue;
      if (params.greedy()) {
        scans.push_back(scan_of(r, 1, false));
        continue;
      }
      const bool sums = !cuts_by_rank(params, vocab_) && (params.top_p < 1 || params.min_p <= 0);
      scans.push_back(scan_of(r, params.temperature, sums));
      any_cuts |= cuts(params, vocab_);
    }
    if (scans.empty()) return;
    read(scans);
    finish(scans, any_cuts, [&](const Scan& scan, float highest, Candidates& candidates) {
      Sample& sample = *out(scan.row);
      sample.token = choose_token(scan, highest, candidates);
      if (logprobs(scan.row) < 0) return;
      float logit = scan.logits[sample.token];
      const auto& before = before_[index(scan.row)];
      const auto changed = std::find_if(before.begin(), before.end(), [&](const TokenLogit& b) {
        return b.token == sample.token;
      });
      if (changed != before.end()) logit = changed->logit;
      sample.logprob = static_cast<float>(logit - norms_[index(scan.row)]);
    });
  }

  int32_t choose_token(const Scan& scan, float highest, Candidates& candidates) {
    const SampleRow& r = row(scan.row);
    const SamplingParams& params = *r.params;
    if (params.greedy()) return first_highest(scan, highest);
    if (scan.sums) cpu::scale_blocks(scan, highest);
    const double unit = random_unit(params.seed, static_cast<uint64_t>(r.position));
    return cuts(params, vocab_) ? draw_with_cuts(scan, params, highest, unit, candidates)
                                : draw_from_row(scan, unit);
  }

  backend::Context& ctx_;
  backend::ArenaScope scope_;
  std::span<const SampleRow> rows_;
  int64_t vocab_;
  std::vector<Result<Sample>> out_;
  std::vector<double> norms_;  // log sum e^logit, where log probabilities are asked for
  std::vector<std::vector<TokenLogit>> before_;  // penalties and bias
};

}  // namespace

std::vector<Result<Sample>> cpu::sample(backend::Context& ctx, std::span<const SampleRow> rows,
                                        int64_t vocab) {
  HEDDLE_CHECK(vocab >= 1, "vocab {}", vocab);
  return Sampler(ctx, rows, vocab).run();
}

}  // namespace heddle::ops
