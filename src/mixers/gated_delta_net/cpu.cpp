// One task owns one key head of one segment (or some of its panels of 16 columns) and carries it
// through the segment, fold block by fold block (F = 32 tokens), everything fused: convolution,
// SiLU and l2norm of q, k, v; gates; delta rule; fold; gated norm. For a block of m tokens after s
// records and per panel:
//   P, R = [K; Q] S                         2m x K x 16, the bulk of the work
//   u_t = beta_t (v_t - e^{G_t} P_t - sum_{j<t} e^{G_t - G_j} (k_t.k_j) u_j)   triangular solve
//   o_t = e^{G_t} R_t + sum_{j<=t} e^{G_t - G_j} (q_t.k_j) u_j
//   S'  = e^{G_F} S + sum_j (e^{G_F - G_j} k_j) u_j^T                          K x 32 x 16
// Decode is a block of one token. Every sum runs over k or j in order, lane by lane, so prefill,
// decode, drafts and any chunking give the same bits. Why it is fast: a panel (8 KB at K = 128)
// stays in L1 while a block passes over it, and products run in 6 x 16 register tiles. Floor of a
// decode step: one read of S; of prefill: 6 K V + 2 F (K + V) FMAs' worth of FLOPs per token and
// value head.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mixers/gated_delta_net/cpu.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target.
#include <hwy/cache_control.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "mixers/gated_delta_net/plan.h"
#include "mixers/gated_delta_net/tiles-inl.h"
#include "ops/conv/causal_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::mixers::gated_delta_net {
namespace HWY_NAMESPACE {

// Floats of the open records that are fetched while convolution and norm go on.
constexpr int64_t kRecordsAhead = 4 << 10;
// Rows of projections that are fetched ahead of use.
constexpr int64_t kRowsAhead = 6;

// Rows [row, row + tokens) of a segment: the tokens of one fold block, at slots slot, slot + 1, ...
// of the block, after `slot` records of earlier steps or tokens.
struct Block {
  int64_t row = 0;
  int64_t tokens = 0;
  int64_t slot = 0;
  float* next = nullptr;      // where the summary behind its last slot goes; nullptr: not reached
  bool keeps = false;         // its records are read after the step
  const float* keys[kFold];   // [Kp] of each slot, old and new
  bool tree = false;          // the slots before a token differ from its ancestors
  int8_t parent[kFold];       // of each slot: the slot it follows; -1: the boundary
  int8_t path[kFold][kFold];  // tree: ancestors of token t, oldest first
  int8_t path_length[kFold];
};

// What the value head at hand adds: decays and strengths.
struct Gates {
  double cumulative[kFold];  // of each slot: log decay since the boundary
  float g[kFold];
  float beta[kFold];   // by token
  float decay[kFold];  // by token: e^{G_t}
};

static float softplus(float x) { return (x > 0 ? x : 0.0f) + std::log1p(std::exp(-std::abs(x))); }

class Task {
 public:
  Task(const Plan& plan, int64_t head, int64_t split, int64_t segment, float* scratch)
      : plan_(plan),
        args_(*plan.args),
        s_(*plan.args->sizes),
        head_(head),
        split_(split),
        index_(segment),
        segment_(plan.args->batch->segments[static_cast<size_t>(segment)]),
        view_(plan.args->state->at(segment, kDeltaPart)),
        open_(reinterpret_cast<float*>(view_.open())),
        tmp_(s_, scratch) {}

  void run() {
    const float* summary = view_.summary();
    int64_t reached = 0;  // boundaries by drafts
    Block block;
    block.slot = segment_.start % kFold;
    // Decode meets its records before anything else of the state.
    if (segment_.length == 1)
      prefetch(open_ + s_.strip_at(head_, 0), std::min(block.slot * s_.strip(), kRecordsAhead));
    while (block.row < segment_.length) {
      block.tokens = std::min(kFold - block.slot, segment_.length - block.row);
      const int64_t end = block.row + block.tokens;
      const bool full = block.slot + block.tokens == kFold;
      const bool drafts = end > segment_.committed();
      const bool folds = full && (!drafts || reached < view_.draft_folds());
      HEDDLE_CHECK(folds || end == segment_.length, "a tree crosses a fold boundary at row {}",
                   end);
      block.next = !folds ? nullptr : drafts ? view_.draft_summary(reached) : view_.next_summary();
      HEDDLE_CHECK(!folds || block.next != nullptr, "no room for a summary");
      block.keeps = drafts || !full;
      set_ancestors(block);
      convolve_keys(block);
      dots(block);
      for (int64_t r = 0; r < s_.repeat(); ++r) value_head(block, r, summary);
      if (block.keeps && split_ == 0) store_keys(block);
      if (folds) summary = block.next;
      if (folds && drafts) open_ = reinterpret_cast<float*>(view_.draft_open(reached++));
      block.slot = folds ? 0 : block.slot + block.tokens;
      block.row = end;
    }
  }

 private:
  void set_ancestors(Block& b) const {
    b.tree = false;
    for (int64_t j = 0; j < b.slot; ++j) b.parent[j] = static_cast<int8_t>(j - 1);
    for (int64_t t = 0; t < b.tokens; ++t) {
      const int64_t row = segment_.parent(b.row + t);
      HEDDLE_CHECK(row >= b.row - 1, "row {} follows row {}, before the open block", b.row + t,
                   row);
      b.parent[b.slot + t] = static_cast<int8_t>(b.slot + row - b.row);
      b.tree = b.tree || row != b.row + t - 1;
    }
    if (!b.tree) return;
    for (int64_t t = 0; t < b.tokens; ++t) {
      int64_t length = 0;
      for (int64_t j = b.parent[b.slot + t]; j >= 0; j = b.parent[j])
        b.path[t][length++] = static_cast<int8_t>(j);
      std::reverse(b.path[t], b.path[t] + length);
      b.path_length[t] = static_cast<int8_t>(length);
    }
  }

  // out[0, pad) = silu(conv) of channels [channel, channel + width) of a row, zero-padded. Returns
  // the sum of squares.
  float convolve(int64_t row, int64_t channel, int64_t width, float* out) const {
    ops::HWY_NAMESPACE::ConvRow in;
    for (int64_t j = 0; j < s_.taps; ++j) {
      const float* x = ops::causal_conv_tap(plan_.conv, index_, row, s_.taps - 1 - j);
      in.x[j] = x == nullptr ? nullptr : x + channel;
    }
    // The slices of successive rows lie pages apart, out of reach of the hardware's prefetcher.
    if (row + kRowsAhead < segment_.length) prefetch(in_row(row + kRowsAhead) + channel, width);
    in.weights = args_.conv + channel;
    in.weights_stride = s_.channels();
    F32x16 squares = math::zero16();
    F32x16* sum = &squares;
    ops::HWY_NAMESPACE::conv_row(in, s_.taps, width, [=](int64_t c, F32x16 x, int64_t) HWY_ATTR {
      const F32x16 y = math::silu(x);  // silu(0) = 0 keeps the padding
      math::store16(y, out + c);
      *sum = math::fma(y, y, *sum);
    });
    return math::sum(squares);
  }

  const float* in_row(int64_t row) const {
    return args_.projected + (segment_.row + row) * s_.projected();
  }

  static void prefetch(const float* x, int64_t width) {
    for (int64_t c = 0; c < width; c += kLanes) hwy::Prefetch(x + c);
  }

  static void scale_row(float* x, int64_t width, float scale) {
    for (int64_t c = 0; c < width; c += 16)
      math::store16(math::mul(math::load16(x + c), math::set16(scale)), x + c);
  }

  // k and q rows of the block, normalised.
  void convolve_keys(Block& b) const {
    const int64_t pad = s_.key_pad(), width = s_.key_heads * s_.key_dim;
    const float q_scale = 1.0f / std::sqrt(static_cast<float>(s_.key_dim));
    for (int64_t t = 0; t < b.tokens; ++t) {
      float* k = tmp_.a + t * pad;
      float* q = tmp_.a + (b.tokens + t) * pad;
      const float kk = convolve(b.row + t, width + head_ * s_.key_dim, s_.key_dim, k);
      const float qq = convolve(b.row + t, head_ * s_.key_dim, s_.key_dim, q);
      scale_row(k, pad, 1.0f / std::sqrt(kk + 1e-6f));
      scale_row(q, pad, 1.0f / std::sqrt(qq + 1e-6f) * q_scale);
      b.keys[b.slot + t] = k;
    }
    for (int64_t j = 0; j < b.slot; ++j) b.keys[j] = open_ + s_.strip_at(head_, j);
  }

  // kk[t][j] = k_t . k_j, qk[t][j] = q_t . k_j for slots j up to the token's own.
  void dots(const Block& b) const {
    const int64_t pad = s_.key_pad();
    for (int64_t t = 0; t < b.tokens; ++t) {
      const float* rows[2] = {tmp_.a + t * pad, tmp_.a + (b.tokens + t) * pad};
      float* kk = tmp_.kk + t * kFold;
      float* qk = tmp_.qk + t * kFold;
      const int64_t count = b.slot + t + 1;
      int64_t j = 0;
      for (; j + 3 <= count; j += 3) {
        float* out[2] = {kk + j, qk + j};
        dot_tile<2, 3>(rows, b.keys + j, pad, out);
      }
      for (; j < count; ++j) {
        float* out[2] = {kk + j, qk + j};
        dot_tile<2, 1>(rows, b.keys + j, pad, out);
      }
    }
  }

  void gates(const Block& b, int64_t r, Gates& gates) const {
    const int64_t head = s_.value_head(head_, r);
    for (int64_t j = 0; j < b.slot; ++j)
      gates.g[j] = open_[s_.strip_at(head_, j) + s_.strip_gate(r)];
    const int64_t offset = s_.channels() + s_.value_width();
    for (int64_t t = 0; t < b.tokens; ++t) {
      const float* in = args_.projected + (segment_.row + b.row + t) * s_.projected() + offset;
      gates.beta[t] = 1.0f / (1.0f + std::exp(-in[head]));
      gates.g[b.slot + t] =
          args_.decay[head] * softplus(in[s_.value_heads + head] + args_.dt_bias[head]);
    }
    // In double: a single token may forget everything (g = -100), and the differences between later
    // tokens must not pay for it.
    for (int64_t j = 0; j < b.slot + b.tokens; ++j)
      gates.cumulative[j] =
          (b.parent[j] < 0 ? 0.0 : gates.cumulative[b.parent[j]]) + static_cast<double>(gates.g[j]);
    for (int64_t t = 0; t < b.tokens; ++t)
      gates.decay[t] = static_cast<float>(gates.cumulative[b.slot + t]);
    exp_row(gates.decay, b.tokens);
  }

  // x[i] = e^{x[i]}; x has room for whole lanes.
  static void exp_row(float* x, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) math::store16(math::exp(math::load16(x + i)), x + i);
  }

  // solve[t][j] = e^{G_t - G_j} kk, read[t][j] = e^{G_t - G_j} qk (t itself: qk).
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
        math::store16(math::mul(decay, math::load16(tmp_.kk + at)), tmp_.solve + at);
        math::store16(math::mul(decay, math::load16(tmp_.qk + at)), tmp_.read + at);
      }
      tmp_.read[t * kFold + count] = tmp_.qk[t * kFold + count];
    }
  }

  void value_head(const Block& b, int64_t r, const float* summary) const {
    const int64_t panels = s_.value_pad() / kLanes;
    // The panels [first, last) of this value head that belong to this split.
    const int64_t all = s_.repeat() * panels;
    const int64_t first = std::max<int64_t>(all * split_ / plan_.splits - r * panels, 0);
    const int64_t last = std::min(all * (split_ + 1) / plan_.splits - r * panels, panels);
    if (first >= last) return;
    const int64_t head = s_.value_head(head_, r);
    Gates g;
    gates(b, r, g);
    coefficients(b, g);
    for (int64_t t = 0; t < b.tokens; ++t)
      convolve(b.row + t, 2 * s_.key_heads * s_.key_dim + head * s_.value_dim, s_.value_dim,
               tmp_.v + t * s_.value_pad());
    float last_decay = 0;
    if (b.next != nullptr) last_decay = fold_weights(s_, b.keys, g.cumulative, tmp_.weight);
    const int64_t group = b.tokens == 1 ? (math::kParts == 1 ? 4 : 2) : 1;
    for (int64_t p = first; p < last;) {
      const int64_t count = std::min(group, last - p);
      const int64_t at = s_.summary_index(head, 0, p * kLanes);
      products(b, summary == nullptr ? nullptr : summary + at, count);
      if (b.tokens == 1 && b.next == nullptr) {
        token(b, g, r, p, count);
        p += count;
        continue;
      }
      for (int64_t i = 0; i < count; ++i, ++p) {
        panel(b, g, r, p, tmp_.product + i * 2 * kFold * kLanes);
        if (b.next != nullptr)
          fold_panel(s_, summary == nullptr ? nullptr : summary + s_.summary_index(head, 0, p * 16),
                     last_decay, tmp_.weight, tmp_.u, b.next + s_.summary_index(head, 0, p * 16));
      }
    }
    if (b.keeps && first == 0)
      for (int64_t t = 0; t < b.tokens; ++t)
        open_[s_.strip_at(head_, b.slot + t) + s_.strip_gate(r)] = g.g[b.slot + t];
    if (plan_.o == nullptr)
      gate_rows(args_, head, segment_.row + b.row, b.tokens, tmp_.o, s_.value_pad());
  }

  // product[p] = [K; Q] S of `count` panels.
  void products(const Block& b, const float* state, int64_t count) const {
    const int64_t rows = 2 * b.tokens, stride = 2 * kFold * kLanes;
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

  // `count` panels of a block of one token that does not fold.
  void token(const Block& b, const Gates& g, int64_t rank, int64_t p, int64_t count) const {
    const int64_t lane = p * kLanes, stride = 2 * kFold * kLanes;
    float* u = open_ + s_.strip_at(head_, 0) + s_.strip_value(rank) + lane;
    float* o = output(b, rank) + lane;
    const auto tile = [&]<int kPanels>() HWY_ATTR {
      token_tile<kPanels>(tmp_.product, stride, g.decay[0], tmp_.v + lane, tmp_.solve, tmp_.read,
                          b.slot, g.beta[0], u, s_.strip(), o);
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

  // Corrected values and outputs of 16 columns: u goes to tmp_.u and to the records, o to its rows.
  void panel(const Block& b, const Gates& g, int64_t rank, int64_t p, const float* product) const {
    const int64_t lane = p * kLanes;
    float* records = open_ + s_.strip_at(head_, 0) + s_.strip_value(rank) + lane;
    for (int64_t j = 0; j < b.slot; ++j)
      math::store16(math::load16(records + j * s_.strip()), tmp_.u + j * kLanes);
    HWY_ALIGN float out[kFold * kLanes];
    if (b.tree) {
      solve_tree(b, g, lane, product, out);
    } else {
      for (int64_t t = 0; t < b.tokens; t += kTile)
        solve_chain(b, g, lane, product, t, std::min<int64_t>(kTile, b.tokens - t), out);
    }
    float* o = output(b, rank) + lane;
    const int64_t o_stride = output_stride();
    for (int64_t t = 0; t < b.tokens; ++t) {
      math::store16(math::load16(out + t * kLanes), o + t * o_stride);
      if (b.keeps)
        math::store16(math::load16(tmp_.u + (b.slot + t) * kLanes),
                      records + (b.slot + t) * s_.strip());
    }
  }

  void solve_chain(const Block& b, const Gates& g, int64_t lane, const float* product, int64_t t,
                   int64_t rows, float* out) const {
    F32x16 value[kTile], read[kTile];
    for (int64_t r = 0; r < rows; ++r) {
      const F32x16 decay = math::set16(g.decay[t + r]);
      value[r] = math::nfma(decay, math::load16(product + (t + r) * kLanes),
                            math::load16(tmp_.v + (t + r) * s_.value_pad() + lane));
      read[r] = math::mul(decay, math::load16(product + (b.tokens + t + r) * kLanes));
    }
    const float* solve_at = tmp_.solve + t * kFold;
    const float* read_at = tmp_.read + t * kFold;
    const F32x16 *values = value, *reads = read;
    const float* beta = g.beta + t;
    float* u = tmp_.u;
    const int64_t slot = b.slot + t;
    with_rows(rows, [=]<int kRows>() HWY_ATTR {
      chain_tile<kRows, true>(values, solve_at, kFold, slot, beta, u, nullptr);
      chain_tile<kRows, false>(reads, read_at, kFold, slot, beta, u, out + t * kLanes);
    });
  }

  void solve_tree(const Block& b, const Gates& g, int64_t lane, const float* product,
                  float* out) const {
    for (int64_t t = 0; t < b.tokens; ++t) {
      const F32x16 decay = math::set16(g.decay[t]);
      F32x16 value = math::nfma(decay, math::load16(product + t * kLanes),
                                math::load16(tmp_.v + t * s_.value_pad() + lane));
      F32x16 read = math::mul(decay, math::load16(product + (b.tokens + t) * kLanes));
      for (int64_t i = 0; i < b.path_length[t]; ++i) {
        const int64_t j = b.path[t][i];
        const F32x16 u = math::load16(tmp_.u + j * kLanes);
        value = math::nfma(math::set16(tmp_.solve[t * kFold + j]), u, value);
        read = math::fma(math::set16(tmp_.read[t * kFold + j]), u, read);
      }
      value = math::mul(math::set16(g.beta[t]), value);
      math::store16(value, tmp_.u + (b.slot + t) * kLanes);
      read = math::fma(math::set16(tmp_.read[t * kFold + b.slot + t]), value, read);
      math::store16(read, out + t * kLanes);
    }
  }

  void store_keys(const Block& b) const {
    for (int64_t t = 0; t < b.tokens; ++t) {
      float* strip = open_ + s_.strip_at(head_, b.slot + t);
      std::memcpy(strip, b.keys[b.slot + t], static_cast<size_t>(s_.key_pad()) * sizeof(float));
      std::fill(strip + s_.strip_gate(s_.repeat()), strip + s_.strip(), 0.0f);
    }
  }

  // weight[j] = e^{G_last - G_j} k_j; returns e^{G_last}.
  static float fold_weights(const Sizes& s, const float* const* keys, const double* cumulative,
                            float* weight) {
    HWY_ALIGN float e[kFold + 16];
    const double last = cumulative[kFold - 1];
    for (int64_t j = 0; j < kFold; ++j)
      e[j] = std::min(static_cast<float>(last - cumulative[j]), 0.0f);
    for (int64_t j = kFold; j < kFold + 16; ++j) e[j] = static_cast<float>(last);
    exp_row(e, kFold + 16);
    for (int64_t j = 0; j < kFold; ++j)
      for (int64_t k = 0; k < s.key_pad(); k += 16)
        math::store16(math::mul(math::set16(e[j]), math::load16(keys[j] + k)),
                      weight + j * s.key_pad() + k);
    return e[kFold];
  }

  // One panel [K][16] of the next summary from the one before and u [F][16].
  static void fold_panel(const Sizes& s, const float* state, float decay, const float* weight,
                         const float* u, float* next) {
    const int64_t stride = s.key_pad();
    for (int64_t k = 0; k < s.key_dim; k += kTile) {
      const float* from = state == nullptr ? nullptr : state + k * kLanes;
      float* to = next + k * kLanes;
      const float* w = weight + k;
      with_rows(std::min<int64_t>(kTile, s.key_dim - k), [=]<int kRows>() HWY_ATTR {
        fold_tile<kRows>(from, decay, w, stride, u, kFold, to);
      });
    }
  }

 public:
  // y = o / sqrt(mean o^2 + eps) w SiLU(z) of `tokens` rows of one value head.
  static void gate_rows(const MixArgs& args, int64_t head, int64_t row, int64_t tokens,
                        const float* o, int64_t o_stride) {
    const Sizes& s = *args.sizes;
    for (int64_t t = 0; t < tokens; ++t, o += o_stride) {
      F32x16 squares = math::zero16();
      for (int64_t c = 0; c < s.value_pad(); c += 16) {
        const F32x16 x = math::load16(o + c);
        squares = math::fma(x, x, squares);
      }
      const float mean = math::sum(squares) / static_cast<float>(s.value_dim);
      const F32x16 scale = math::set16(1.0f / std::sqrt(mean + static_cast<float>(s.norm_eps)));
      const float* z =
          args.projected + (row + t) * s.projected() + s.channels() + head * s.value_dim;
      if (row + t + kRowsAhead < args.batch->tokens)
        prefetch(z + kRowsAhead * s.projected(), s.value_dim);
      float* y = args.y + (row + t) * s.value_width() + head * s.value_dim;
      for (int64_t c = 0; c < s.value_dim; c += 16) {
        const int64_t count = std::min<int64_t>(16, s.value_dim - c);
        const F32x16 w =
            count == 16 ? math::load16(args.norm + c) : math::load16_partial(args.norm + c, count);
        const F32x16 gate =
            math::silu(count == 16 ? math::load16(z + c) : math::load16_partial(z + c, count));
        const F32x16 x = math::mul(math::mul(math::mul(math::load16(o + c), scale), w), gate);
        count == 16 ? math::store16(x, y + c) : math::store16_partial(x, y + c, count);
      }
    }
  }

 private:
  const Plan& plan_;
  const MixArgs& args_;
  const Sizes& s_;
  int64_t head_;
  int64_t split_;
  int64_t index_;
  const state::Segment& segment_;
  const state::PartView& view_;
  float* open_;
  Scratch tmp_;
};

static void run_tasks(const Plan& plan, int64_t begin, int64_t end, float* scratch) {
  const auto segments = static_cast<int64_t>(plan.args->batch->segments.size());
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task / segments;
    Task(plan, head / plan.splits, head % plan.splits, task % segments, scratch).run();
  }
}

// Rows [begin, end) of [T x HV].
static void gate_tasks(const Plan& plan, int64_t begin, int64_t end) {
  const Sizes& s = *plan.args->sizes;
  for (int64_t i = begin; i < end; ++i)
    Task::gate_rows(*plan.args, i % s.value_heads, i / s.value_heads, 1, plan.o + i * s.value_pad(),
                    0);
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::mixers::gated_delta_net
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::mixers::gated_delta_net {
HWY_EXPORT(run_tasks);
HWY_EXPORT(gate_tasks);

namespace {

// Splits a key head's panels only when there are too few heads for the threads.
int64_t choose_splits(const MixArgs& args, int64_t threads) {
  const Sizes& s = *args.sizes;
  const auto segments = static_cast<int64_t>(args.batch->segments.size());
  for (int64_t n = 0; n < segments; ++n)
    if (const auto& part = args.state->at(n, kDeltaPart);
        part.next_summary() != nullptr || part.draft_folds() > 0)
      return 1;
  const int64_t panels = s.repeat() * s.value_pad() / kLanes;
  const int64_t wanted = 2 * threads / (s.key_heads * segments);
  return std::clamp<int64_t>(wanted, 1, panels);
}

}  // namespace

void cpu::mix(backend::Context& ctx, const MixArgs& args) {
  const auto segments = static_cast<int64_t>(args.batch->segments.size());
  if (segments == 0) return;
  const Sizes& s = *args.sizes;
  const backend::ArenaScope scope(ctx.scratch);
  Plan plan;
  plan.args = &args;
  plan.conv = conv_args(args);
  plan.splits = choose_splits(args, ctx.pool.threads());
  const int64_t values = args.batch->tokens * s.value_heads;
  if (plan.splits > 1) plan.o = ctx.scratch.allocate<float>(values * s.value_pad());
  const int64_t slab = Scratch::floats(s);
  auto* scratch = ctx.scratch.allocate<float>(slab * ctx.pool.threads());
  const auto tasks = HWY_DYNAMIC_DISPATCH(run_tasks);
  ctx.pool.parallel_for(s.key_heads * plan.splits * segments, 1,
                        [&](int64_t begin, int64_t end, int thread) {
                          tasks(plan, begin, end, scratch + thread * slab);
                        });
  if (plan.splits > 1) {
    const auto gate = HWY_DYNAMIC_DISPATCH(gate_tasks);
    ctx.pool.parallel_for(values, 1,
                          [&](int64_t begin, int64_t end, int) { gate(plan, begin, end); });
  }
  ops::causal_conv_store(plan.conv);
}

}  // namespace heddle::mixers::gated_delta_net
#endif
