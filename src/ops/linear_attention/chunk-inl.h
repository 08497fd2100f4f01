// A rule over a step, compiled per target (see backend/simd/simd.h). One task owns one key head of
// one segment (or some of its panels of 16 columns) and carries it through the segment, fold block
// by fold block (F tokens), everything fused: what the rule makes of the row (convolution, norms,
// gates), recurrence, fold, what the rule makes of o. For a block of m tokens after s records and
// per panel, e_tj being the decay from j to t:
//   P, R = [K; Q] S                         2m x K x 16, the bulk of the work
//   u_t = beta_t (v_t - e_t P_t - sum_{j<t} e_tj (k_t.k_j) u_j)   triangular solve
//   o_t = e_t R_t + sum_{j<=t} e_tj (q_t.k_j) u_j
//   S'  = e_F S + sum_j (e_Fj k_j) u_j^T                          K x F x 16
// A rule that does not correct has neither P nor solve: u_t = beta_t v_t. A decay per channel
// stands inside the dots: k_t.k_j is then sum_c e_tj[c] k_t[c] k_j[c], and e_t goes into the rows
// of K and Q before the product. Decode is a block of one token. Every sum runs over k or j in
// order, lane by lane, so prefill, decode, drafts and any chunking give the same bits. Why it is
// fast: a panel (8 KB at K = 128) stays in L1 while a block passes over it, and products run in 6 x
// 16 register tiles. Floor of a decode step: one read of S; of prefill: 6 K V + 2 F (K + V) FLOPs
// per token and value head (no correction: 4 K V + F (K + V)).
//
// A Rule is made from the mixer's arguments, once per range of tasks, and has
//   explicit Rule(const Args&);
//   static constexpr int64_t kFold;      F, a multiple of 16
//   static constexpr Decay kDecay;       as in its FoldShape
//   static constexpr bool kCorrects;     as in its FoldShape
//   static constexpr bool kSkips;        o += skip(head) v
//   static constexpr Finish kFinish;
//   void key(Row, key_head, k) const;    k [Kp], padded with zeros; query, value alike
//   void query(Row, key_head, q) const;
//   void value(Row, value_head, v) const;
//   float strength(Row, value_head) const;     beta
//   float skip(value_head) const;              kSkips
//   float log_decay(value_head) const;         Decay::constant: g <= 0
//   float log_decay(Row, value_head) const;    Decay::head
//   void log_decay(Row, key_head, g) const;    Decay::channel; g [Kp], padded with zeros
//   void finish(batch_row, value_head, o) const;  o [Vp] -> output (Finish::row: o [HV][Vp], head
//   0)
#include <hwy/cache_control.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/linear_attention/fold-inl.h"
#include "ops/linear_attention/linear_attention.h"
#include "ops/linear_attention/rows-inl.h"
#include "ops/linear_attention/tiles-inl.h"

#if defined(HEDDLE_LINEAR_ATTENTION_CHUNK_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_LINEAR_ATTENTION_CHUNK_INL_H
#undef HEDDLE_LINEAR_ATTENTION_CHUNK_INL_H
#else
#define HEDDLE_LINEAR_ATTENTION_CHUNK_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::ops::linear_attention {
namespace HWY_NAMESPACE {

// Floats of the open records that are fetched while the rule makes the rows.
constexpr int64_t kRecordsAhead = 4 << 10;

template <class Rule, class Args>
class HeadTask {
  static constexpr int64_t kFold = Rule::kFold;
  static constexpr bool kCorrects = Rule::kCorrects;
  static constexpr bool kChannels = Rule::kDecay == Decay::channel;
  static constexpr bool kOwnKeys = !kCorrects || kChannels;  // as in Scratch
  static constexpr int64_t kReads = kCorrects ? 2 : 1;       // rows of a token in the product
  static_assert(kFold % 16 == 0 && kFold <= Ancestors::kMaxFold);

  struct Block : FoldSpan {
    Block(const state::Segment& segment, const FoldSpan& span)
        : FoldSpan(span), ancestors(segment, span) {}
    const float* keys[kFold];  // [Kp] of each slot, old and new
    Ancestors ancestors;
  };

  // What the value head at hand adds: decays and strengths.
  struct Gates {
    double cumulative[kFold];  // of each slot: log decay since the boundary
    float g[kFold];
    float beta[kFold];   // by token
    float decay[kFold];  // by token: e_t; by channel: 1, as the rows of the product have it
  };

 public:
  HeadTask(const Plan<Args>& plan, const Rule& rule, int64_t head, int64_t split, int64_t segment,
           float* scratch)
      : plan_(plan),
        args_(*plan.args),
        s_(*plan.args->shape),
        rule_(rule),
        strip_(s_.strip()),
        head_(head),
        split_(split),
        index_(segment),
        segment_(plan.args->batch->segments[static_cast<size_t>(segment)]),
        view_(plan.args->state->at(segment, plan.args->part)),
        tmp_(s_, scratch) {}

  void run() {
    const auto* open = reinterpret_cast<const float*>(view_.open());
    // Decode meets its records before anything else of the state.
    if (segment_.length == 1)
      prefetch(open + s_.strip_at(head_, 0),
               std::min(segment_.start % kFold * s_.strip(), kRecordsAhead));
    FoldWalk walk(segment_, view_, kFold);
    for (FoldSpan span; walk.next(span);) {
      Block block(segment_, span);
      keys(block);
      if constexpr (kChannels) {
        channel_decays(block);
        for (int64_t t = 0; t < block.tokens; ++t) channel_dots(block, t);
        if (block.next != nullptr)
          fold_weights_by_channel<kFold>(s_, block.keys, tmp_.decay, tmp_.weight, tmp_.last);
      } else {
        dots(block);
      }
      for (int64_t r = 0; r < s_.repeat(); ++r) value_head(block, r);
      if (block.keeps && split_ == 0) store_keys(block);
    }
  }

 private:
  Row row(const Block& b, int64_t t) const { return {index_, b.row + t, segment_.row + b.row + t}; }
  float* query(const Block& b, int64_t t) const {
    return tmp_.a + (kCorrects ? b.tokens + t : t) * s_.key_pad();
  }

  // The record of a slot.
  float* strip(const Block& b, int64_t slot) const {
    return b.records + s_.strip_at(head_, 0) + slot * strip_;
  }

  // k and q rows of the block.
  void keys(Block& b) const {
    const int64_t pad = s_.key_pad();
    for (int64_t t = 0; t < b.tokens; ++t) {
      float* k = kOwnKeys ? tmp_.keys + t * pad : tmp_.a + t * pad;
      rule_.key(row(b, t), head_, k);
      rule_.query(row(b, t), head_, query(b, t));
      b.keys[b.slot + t] = k;
    }
    for (int64_t j = 0; j < b.slot; ++j) b.keys[j] = strip(b, j);
  }

  // kk[t][j] = k_t . k_j, qk[t][j] = q_t . k_j for slots j up to the token's own.
  void dots(const Block& b) const {
    const int64_t pad = s_.key_pad();
    for (int64_t t = 0; t < b.tokens; ++t) {
      float* kk = tmp_.kk + t * kFold;
      float* qk = tmp_.qk + t * kFold;
      const float* rows[kReads];
      float* out[kReads];
      const auto at = [&](int64_t j) {
        out[kReads - 1] = qk + j;
        if constexpr (kCorrects) out[0] = kk + j;
      };
      rows[kReads - 1] = query(b, t);
      if constexpr (kCorrects) rows[0] = b.keys[b.slot + t];
      const int64_t count = b.slot + t + 1;
      int64_t j = 0;
      for (; j + 3 <= count; j += 3) {
        at(j);
        dot_tile<kReads, 3>(rows, b.keys + j, pad, out);
      }
      for (; j < count; ++j) {
        at(j);
        dot_tile<kReads, 1>(rows, b.keys + j, pad, out);
      }
    }
  }

  // e^g of every slot, and g of the new ones.
  void channel_decays(const Block& b) const {
    const int64_t pad = s_.key_pad();
    for (int64_t j = 0; j < b.slot + b.tokens; ++j) {
      const float* g = strip(b, j) + s_.strip_gates();
      if (j >= b.slot) {
        float* own = tmp_.g + (j - b.slot) * pad;
        rule_.log_decay(row(b, j - b.slot), head_, own);
        g = own;
      }
      for (int64_t c = 0; c < pad; c += 16)
        math::store16(math::exp(math::load16(g + c)), tmp_.decay + j * pad + c);
    }
  }

  // The coefficients of token t, and its rows of the product times e_t. The decay from j to t is a
  // product over the path, from t backwards, channel by channel.
  void channel_dots(const Block& b, int64_t t) const {
    const int64_t pad = s_.key_pad(), own = b.slot + t;
    const float* key = b.keys[own];
    float* q_row = query(b, t);
    float *of_k = tmp_.sums, *of_q = tmp_.sums + kFold * kLanes;
    std::fill(of_k, of_k + (own + 1) * kLanes, 0.0f);
    std::fill(of_q, of_q + (own + 1) * kLanes, 0.0f);
    const auto add = [](F32x16 x, F32x16 y, float* sum)
                         HWY_ATTR { math::store16(math::fma(x, y, math::load16(sum)), sum); };
    for (int64_t c = 0; c < pad; c += 16) {
      const F32x16 k = math::load16(key + c), q = math::load16(q_row + c);
      add(q, k, of_q + own * kLanes);
      F32x16 decay = math::load16(tmp_.decay + own * pad + c);
      for (int64_t j = b.ancestors.parent(own); j >= 0; j = b.ancestors.parent(j)) {
        const F32x16 x = math::mul(decay, math::load16(b.keys[j] + c));
        if constexpr (kCorrects) add(k, x, of_k + j * kLanes);
        add(q, x, of_q + j * kLanes);
        decay = math::mul(decay, math::load16(tmp_.decay + j * pad + c));
      }
      if constexpr (kCorrects) math::store16(math::mul(decay, k), tmp_.a + t * pad + c);
      math::store16(math::mul(decay, q), q_row + c);
    }
    for (int64_t j = 0; j <= own; ++j) {
      tmp_.solve[t * kFold + j] = math::sum(math::load16(of_k + j * kLanes));
      tmp_.read[t * kFold + j] = math::sum(math::load16(of_q + j * kLanes));
    }
  }

  void gates(const Block& b, int64_t r, Gates& gates) const {
    const int64_t head = s_.value_head(head_, r);
    for (int64_t t = 0; t < b.tokens; ++t) gates.beta[t] = rule_.strength(row(b, t), head);
    if constexpr (kChannels) {
      std::fill(gates.decay, gates.decay + b.tokens, 1.0f);
      return;
    } else if constexpr (Rule::kDecay == Decay::constant) {
      std::fill(gates.g, gates.g + b.slot + b.tokens, rule_.log_decay(head));
    } else {
      const float* recorded = strip(b, 0) + s_.strip_gates() + r;
      for (int64_t j = 0; j < b.slot; ++j) gates.g[j] = recorded[j * strip_];
      for (int64_t t = 0; t < b.tokens; ++t) gates.g[b.slot + t] = rule_.log_decay(row(b, t), head);
    }
    // In double: a single token may forget everything (g = -100), and the differences between later
    // tokens must not pay for it.
    for (int64_t j = 0; j < b.slot + b.tokens; ++j) {
      const int64_t parent = b.ancestors.parent(j);
      gates.cumulative[j] =
          (parent < 0 ? 0.0 : gates.cumulative[parent]) + static_cast<double>(gates.g[j]);
    }
    for (int64_t t = 0; t < b.tokens; ++t)
      gates.decay[t] = static_cast<float>(gates.cumulative[b.slot + t]);
    exp_row(gates.decay, b.tokens);
    coefficients(b, gates);
  }

  // solve[t][j] = e_tj kk, read[t][j] = e_tj qk (t itself: qk).
  void coefficients(const Block& b, const Gates& g) const {
    HWY_ALIGN float e[kFold];
    for (int64_t t = 0; t < b.tokens; ++t) {
      const int64_t count = b.slot + t;
      const double own = g.cumulative[count];
      for (int64_t j = 0; j < kFold; ++j) e[j] = 0;
      for (int64_t j = 0; j < count; ++j)
        e[j] = std::min(static_cast<float>(own - g.cumulative[j]), 0.0f);
      for (int64_t j = 0; j < count; j += 16) {
        const F32x16 decay = math::exp(math::load16(e + j));
        const int64_t at = t * kFold + j;
        if constexpr (kCorrects)
          math::store16(math::mul(decay, math::load16(tmp_.kk + at)), tmp_.solve + at);
        math::store16(math::mul(decay, math::load16(tmp_.qk + at)), tmp_.read + at);
      }
      tmp_.read[t * kFold + count] = tmp_.qk[t * kFold + count];
    }
  }

  void value_head(const Block& b, int64_t r) const {
    const int64_t panels = s_.value_pad() / kLanes;
    // The panels [first, last) of this value head that belong to this split.
    const int64_t all = s_.repeat() * panels;
    const int64_t first = std::max<int64_t>(all * split_ / plan_.splits - r * panels, 0);
    const int64_t last = std::min(all * (split_ + 1) / plan_.splits - r * panels, panels);
    if (first >= last) return;
    const int64_t head = s_.value_head(head_, r);
    Gates g;
    gates(b, r, g);
    for (int64_t t = 0; t < b.tokens; ++t)
      rule_.value(row(b, t), head, tmp_.v + t * s_.value_pad());
    if constexpr (!kChannels)
      if (b.next != nullptr) fold_weights<kFold>(s_, b.keys, g.cumulative, tmp_.weight, tmp_.last);
    const int64_t group = b.tokens == 1 ? (math::kParts == 1 ? 4 : 2) : 1;
    for (int64_t p = first; p < last;) {
      const int64_t count = std::min(group, last - p);
      const int64_t at = s_.summary_index(head, 0, p * kLanes);
      products(b, b.summary == nullptr ? nullptr : b.summary + at, count);
      if (b.tokens == 1 && b.next == nullptr) {
        token(b, g, r, p, count);
        p += count;
        continue;
      }
      for (int64_t i = 0; i < count; ++i, ++p) {
        const int64_t panel_at = s_.summary_index(head, 0, p * kLanes);
        panel(b, g, r, p, tmp_.product + i * 2 * kFold * kLanes);
        if (b.next != nullptr)
          fold_panel<Rule>(s_, b.summary == nullptr ? nullptr : b.summary + panel_at, tmp_,
                           b.next + panel_at);
      }
    }
    if constexpr (Rule::kDecay == Decay::head)
      if (b.keeps && first == 0)
        for (int64_t t = 0; t < b.tokens; ++t) stored_gates(b, t)[r] = g.g[b.slot + t];
    if (plan_.o == nullptr)
      for (int64_t t = 0; t < b.tokens; ++t)
        rule_.finish(segment_.row + b.row + t, head, tmp_.o + t * s_.value_pad());
  }

  // product[p] = [K; Q] S of `count` panels.
  void products(const Block& b, const float* state, int64_t count) const {
    const int64_t rows = kReads * b.tokens, stride = 2 * kFold * kLanes;
    if (state == nullptr) {
      for (int64_t p = 0; p < count; ++p)
        std::memset(tmp_.product + p * stride, 0, static_cast<size_t>(rows * kLanes) * 4);
      return;
    }
    const int64_t pad = s_.key_pad();
    for (int64_t p = 0; p < count; ++p)
      for (int64_t r = 0; r < rows; r += kTile) {
        const float* a = tmp_.a + r * pad;
        const float* panel_state = state + p * s_.key_dim * kLanes;
        const int64_t k_count = s_.key_dim;
        float* out = tmp_.product + p * stride + r * kLanes;
        with_rows(std::min<int64_t>(kTile, rows - r), [=]<int kRows>() HWY_ATTR {
          product_tile<kRows>(a, pad, panel_state, k_count, out);
        });
      }
  }

  // Where o of the block's first token goes, and how far apart tokens are.
  float* output(const Block& b, int64_t rank) const {
    if (plan_.o == nullptr) return tmp_.o;
    return plan_.o + (segment_.row + b.row) * output_stride() +
           s_.value_head(head_, rank) * s_.value_pad();
  }
  int64_t output_stride() const {
    return plan_.o == nullptr ? s_.value_pad() : s_.value_heads * s_.value_pad();
  }

  float skip(int64_t rank) const {
    if constexpr (Rule::kSkips) return rule_.skip(s_.value_head(head_, rank));
    return 0;
  }

  // `count` panels of a block of one token that does not fold.
  void token(const Block& b, const Gates& g, int64_t rank, int64_t p, int64_t count) const {
    const int64_t lane = p * kLanes, stride = 2 * kFold * kLanes;
    float* u = strip(b, 0) + s_.strip_value(rank) + lane;
    float* o = output(b, rank) + lane;
    const float skips = skip(rank);
    const auto tile = [&]<int kPanels>() HWY_ATTR {
      token_tile<kPanels, kCorrects, Rule::kSkips>(tmp_.product, stride, g.decay[0], tmp_.v + lane,
                                                   tmp_.solve, tmp_.read, b.slot, g.beta[0], skips,
                                                   u, strip_, o);
    };
    switch (count) {
      case 1:
        return tile.template operator()<1>();
      case 2:
        return tile.template operator()<2>();
      case 3:
        return tile.template operator()<3>();
      default:
        return tile.template operator()<4>();
    }
  }

  // Values and outputs of 16 columns: u goes to tmp_.u and to the records, o to its rows.
  void panel(const Block& b, const Gates& g, int64_t rank, int64_t p, const float* product) const {
    const int64_t lane = p * kLanes;
    float* records = strip(b, 0) + s_.strip_value(rank) + lane;
    for (int64_t j = 0; j < b.slot; ++j)
      math::store16(math::load16(records + j * strip_), tmp_.u + j * kLanes);
    HWY_ALIGN float out[kFold * kLanes];
    const float skips = skip(rank);
    if (b.ancestors.tree()) {
      tree(b, g, lane, skips, product, out);
    } else {
      for (int64_t t = 0; t < b.tokens; t += kTile)
        chain(b, g, lane, skips, product, t, std::min<int64_t>(kTile, b.tokens - t), out);
    }
    float* o = output(b, rank) + lane;
    const int64_t o_stride = output_stride();
    for (int64_t t = 0; t < b.tokens; ++t) {
      math::store16(math::load16(out + t * kLanes), o + t * o_stride);
      if (b.keeps)
        math::store16(math::load16(tmp_.u + (b.slot + t) * kLanes),
                      records + (b.slot + t) * strip_);
    }
  }

  // What a token starts from: v - e_t P_t (or v), and e_t R_t + skip v.
  HWY_INLINE void start(const Block& b, const Gates& g, int64_t lane, float skips,
                        const float* product, int64_t t, F32x16& value, F32x16& read) const {
    const F32x16 decay = math::set16(g.decay[t]);
    const F32x16 v = math::load16(tmp_.v + t * s_.value_pad() + lane);
    value = v;
    if constexpr (kCorrects) value = math::nfma(decay, math::load16(product + t * kLanes), v);
    read = math::mul(decay, math::load16(product + ((kReads - 1) * b.tokens + t) * kLanes));
    if constexpr (Rule::kSkips) read = math::fma(math::set16(skips), v, read);
  }

  // Tokens t .. t + rows, each after all slots before it.
  void chain(const Block& b, const Gates& g, int64_t lane, float skips, const float* product,
             int64_t t, int64_t rows, float* out) const {
    F32x16 value[kTile], read[kTile];
    for (int64_t r = 0; r < rows; ++r) start(b, g, lane, skips, product, t + r, value[r], read[r]);
    const float* solve_at = tmp_.solve + t * kFold;
    const float* read_at = tmp_.read + t * kFold;
    const F32x16 *values = value, *reads = read;
    const float* beta = g.beta + t;
    float* u = tmp_.u;
    const int64_t slot = b.slot + t;
    if constexpr (!kCorrects)
      for (int64_t r = 0; r < rows; ++r)
        math::store16(math::mul(math::set16(beta[r]), value[r]), u + (slot + r) * kLanes);
    with_rows(rows, [=]<int kRows>() HWY_ATTR {
      if constexpr (kCorrects)
        chain_tile<kRows, true>(values, solve_at, kFold, slot, beta, u, nullptr);
      chain_tile<kRows, false>(reads, read_at, kFold, slot, beta, u, out + t * kLanes);
    });
  }

  // All tokens of a tree, each after its ancestors.
  void tree(const Block& b, const Gates& g, int64_t lane, float skips, const float* product,
            float* out) const {
    for (int64_t t = 0; t < b.tokens; ++t) {
      F32x16 value, read;
      start(b, g, lane, skips, product, t, value, read);
      for (const int64_t j : b.ancestors.path(t)) {
        const F32x16 u = math::load16(tmp_.u + j * kLanes);
        if constexpr (kCorrects)
          value = math::nfma(math::set16(tmp_.solve[t * kFold + j]), u, value);
        read = math::fma(math::set16(tmp_.read[t * kFold + j]), u, read);
      }
      value = math::mul(math::set16(g.beta[t]), value);
      math::store16(value, tmp_.u + (b.slot + t) * kLanes);
      read = math::fma(math::set16(tmp_.read[t * kFold + b.slot + t]), value, read);
      math::store16(read, out + t * kLanes);
    }
  }

  // Where the gates of a kept token go.
  float* stored_gates(const Block& b, int64_t t) const {
    if (plan_.late != nullptr) return plan_.late_at(segment_.row + b.row + t, head_) + s_.key_pad();
    return strip(b, b.slot + t) + s_.strip_gates();
  }

  // The keys of kept tokens, with zeros where gates are padded.
  void store_keys(const Block& b) const {
    for (int64_t t = 0; t < b.tokens; ++t) {
      float* gates = stored_gates(b, t);
      float* key = plan_.late != nullptr ? gates - s_.key_pad() : strip(b, b.slot + t);
      std::memcpy(key, b.keys[b.slot + t], static_cast<size_t>(s_.key_pad()) * sizeof(float));
      if constexpr (kChannels)
        std::copy_n(tmp_.g + t * s_.key_pad(), s_.key_pad(), gates);
      else
        std::fill(gates + s_.gates(), gates + pad_lanes(s_.gates()), 0.0f);
    }
  }

  const Plan<Args>& plan_;
  const Args& args_;
  const FoldShape& s_;
  const Rule& rule_;
  int64_t strip_;  // floats from a record to the next
  int64_t head_;
  int64_t split_;
  int64_t index_;
  const state::Segment& segment_;
  const state::PartView& view_;
  Scratch tmp_;
};

template <class Rule, class Args>
void run_tasks(const Plan<Args>& plan, int64_t begin, int64_t end, float* scratch) {
  const Rule rule(*plan.args);
  const auto segments = static_cast<int64_t>(plan.args->batch->segments.size());
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task / segments;
    HeadTask<Rule, Args>(plan, rule, head / plan.splits, head % plan.splits, task % segments,
                         scratch)
        .run();
  }
}

template <class Rule, class Args>
void run_finish(const Plan<Args>& plan, int64_t begin, int64_t end) {
  const Rule rule(*plan.args);
  const int64_t heads = plan.args->shape->value_heads, width = plan.args->shape->value_pad();
  for (int64_t i = begin; i < end; ++i) {
    if constexpr (Rule::kFinish == Finish::row)
      rule.finish(i, 0, plan.o + i * heads * width);
    else
      rule.finish(i / heads, i % heads, plan.o + i * width);
  }
}

template <class Rule, class Args>
Kernels<Args> kernels() {
  return {&run_tasks<Rule, Args>, Rule::kFinish, &run_finish<Rule, Args>};
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops::linear_attention
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
