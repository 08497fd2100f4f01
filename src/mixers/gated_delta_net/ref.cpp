// The specification: float64, token by token. A state is rebuilt from the summary by replaying the
// stored records of a token's ancestors; the chunk algebra of the fast kernels appears nowhere.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "mixers/gated_delta_net/kernels.h"

namespace heddle::mixers::gated_delta_net::ref {
namespace {

using Doubles = std::vector<double>;

// S [K, V] of one value head at a fold boundary.
Doubles load_summary(const Sizes& s, const float* summary, int64_t head) {
  Doubles state(static_cast<size_t>(s.key_dim * s.value_dim), 0.0);
  if (summary == nullptr) return state;
  for (int64_t k = 0; k < s.key_dim; ++k)
    for (int64_t v = 0; v < s.value_dim; ++v)
      state[static_cast<size_t>(k * s.value_dim + v)] = summary[s.summary_index(head, k, v)];
  return state;
}

void store_summary(const Sizes& s, const Doubles& state, int64_t head, float* summary) {
  for (int64_t k = 0; k < s.key_dim; ++k)
    for (int64_t v = 0; v < s.value_pad(); ++v)
      summary[s.summary_index(head, k, v)] =
          v < s.value_dim ? static_cast<float>(state[static_cast<size_t>(k * s.value_dim + v)])
                          : 0.0f;
}

// S <- e^g S + k u^T with what a record stores.
void replay(const Sizes& s, const float* open, int64_t slot, int64_t head, Doubles& state) {
  const float* key = open + s.strip_at(s.key_head(head), slot);
  const float* value = key + s.strip_value(s.rank(head));
  const double decay = std::exp(static_cast<double>(key[s.strip_gate(s.rank(head))]));
  for (int64_t k = 0; k < s.key_dim; ++k)
    for (int64_t v = 0; v < s.value_dim; ++v) {
      double& x = state[static_cast<size_t>(k * s.value_dim + v)];
      x = decay * x + static_cast<double>(key[k]) * static_cast<double>(value[v]);
    }
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

// Walks one segment. The state of a chain is carried from row to row, which does the operations of
// a replay in their order; a draft of a tree replays its own ancestors.
class Walk {
 public:
  Walk(const MixArgs& args, int64_t segment)
      : args_(args),
        s_(*args.sizes),
        index_(segment),
        segment_(args.batch->segments[static_cast<size_t>(segment)]),
        view_(args.state->at(segment, kDeltaPart)),
        open_(reinterpret_cast<float*>(view_.open())),
        summary_(view_.summary()),
        conv_(conv_args(args)) {}

  void run() {
    if (segment_.length == 0) return;
    block_ = segment_.start / kFold * kFold;
    restore();
    for (int64_t i = 0; i < segment_.length; ++i) row(i);
  }

 private:
  // The running states at the segment's first row.
  void restore() {
    states_.clear();
    for (int64_t head = 0; head < s_.value_heads; ++head) {
      states_.push_back(load_summary(s_, summary_, head));
      for (int64_t slot = block_; slot < segment_.start; ++slot)
        replay(s_, open_, slot - block_, head, states_.back());
    }
  }

  // The state before draft row i of a tree.
  Doubles state_before(int64_t i, int64_t head) {
    std::vector<int64_t> path;
    int64_t j = segment_.parent(i);
    for (; j >= 0 && segment_.start + j >= block_; j = segment_.parent(j)) path.push_back(j);
    Doubles state = load_summary(s_, summary_, head);
    for (int64_t slot = block_; slot < segment_.start; ++slot)
      replay(s_, open_, slot - block_, head, state);
    for (auto it = path.rbegin(); it != path.rend(); ++it)
      replay(s_, open_, segment_.start + *it - block_, head, state);
    return state;
  }

  // k of every head, and zeros where values and gates are padded.
  void write_keys(int64_t i, int64_t slot) {
    for (int64_t h = 0; h < s_.key_heads; ++h) {
      const Doubles k = head_input(i, (s_.key_heads + h) * s_.key_dim, s_.key_dim);
      const double scale = l2_scale(k);
      float* strip = open_ + s_.strip_at(h, slot);
      std::fill(strip, strip + s_.strip(), 0.0f);
      for (int64_t c = 0; c < s_.key_dim; ++c)
        strip[c] = static_cast<float>(k[static_cast<size_t>(c)] * scale);
    }
  }

  void row(int64_t i) {
    const int64_t slot = segment_.start + i;
    HEDDLE_CHECK(slot - block_ < kFold, "a tree crosses a fold boundary: slot {}", slot);
    write_keys(i, slot - block_);
    const bool tree = segment_.is_tree() && i >= segment_.committed();
    for (int64_t head = 0; head < s_.value_heads; ++head) {
      if (tree) {
        token(i, head, state_before(i, head));
      } else {
        Doubles& state = states_[static_cast<size_t>(head)];
        token(i, head, state);
        replay(s_, open_, slot - block_, head, state);
      }
    }
    const bool draft = i >= segment_.committed();
    if (slot + 1 - block_ == kFold && (!draft || reached_ < view_.draft_folds())) {
      float* next = draft ? view_.draft_summary(reached_) : view_.next_summary();
      HEDDLE_CHECK(next != nullptr, "no room for a summary at {}", slot + 1);
      for (int64_t head = 0; head < s_.value_heads; ++head)
        store_summary(s_, states_[static_cast<size_t>(head)], head, next);
      summary_ = next;
      if (draft) open_ = reinterpret_cast<float*>(view_.draft_open(reached_++));
      block_ += kFold;
      for (int64_t head = 0; head < s_.value_heads; ++head)
        states_[static_cast<size_t>(head)] = load_summary(s_, summary_, head);
    }
  }

  // S: before the row. Writes u and g of the record and the row of y.
  void token(int64_t i, int64_t head, const Doubles& state) {
    const int64_t kd = s_.key_dim, vd = s_.value_dim, h = s_.key_head(head);
    const float* in = args_.projected + (segment_.row + i) * s_.projected();
    const double b = in[s_.channels() + s_.value_width() + head];
    const double a = in[s_.channels() + s_.value_width() + s_.value_heads + head];
    const double beta = sigmoid(b);
    const float g = static_cast<float>(args_.decay[head] *
                                       softplus(a + static_cast<double>(args_.dt_bias[head])));
    float* strip = open_ + s_.strip_at(h, segment_.start + i - block_);
    strip[s_.strip_gate(s_.rank(head))] = g;
    const double decay = std::exp(static_cast<double>(g));
    const Doubles v = head_input(i, 2 * s_.key_heads * kd + head * vd, vd);
    Doubles q = head_input(i, h * kd, kd);
    const double q_scale = l2_scale(q) / std::sqrt(static_cast<double>(kd));
    for (double& x : q) x *= q_scale;
    const float* key = strip;
    float* u = strip + s_.strip_value(s_.rank(head));
    Doubles out(static_cast<size_t>(vd));
    for (int64_t c = 0; c < vd; ++c) {
      double read = 0;
      for (int64_t k = 0; k < kd; ++k)
        read += decay * state[static_cast<size_t>(k * vd + c)] * static_cast<double>(key[k]);
      const double d = beta * (v[static_cast<size_t>(c)] - read);
      double o = 0;
      for (int64_t k = 0; k < kd; ++k)
        o += (decay * state[static_cast<size_t>(k * vd + c)] + static_cast<double>(key[k]) * d) *
             q[static_cast<size_t>(k)];
      u[c] = static_cast<float>(d);
      out[static_cast<size_t>(c)] = o;
    }
    gate(out, in + s_.channels() + head * vd,
         args_.y + (segment_.row + i) * s_.value_width() + head * vd);
  }

  // y = o / sqrt(mean o^2 + eps) * w * SiLU(z)
  void gate(const Doubles& o, const float* z, float* y) const {
    double sum = 0;
    for (double x : o) sum += x * x;
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(o.size()) + s_.norm_eps);
    for (size_t c = 0; c < o.size(); ++c) {
      const double gate = static_cast<double>(z[c]) * sigmoid(z[c]);
      y[c] = static_cast<float>(o[c] * scale * static_cast<double>(args_.norm[c]) * gate);
    }
  }

  Doubles head_input(int64_t i, int64_t channel, int64_t width) const {
    Doubles x(static_cast<size_t>(width));
    for (int64_t c = 0; c < width; ++c)
      x[static_cast<size_t>(c)] = ops::ref::causal_conv_at(conv_, index_, i, channel + c);
    return x;
  }

  static double l2_scale(const Doubles& x) {
    double sum = 0;
    for (double value : x) sum += value * value;
    return 1.0 / std::sqrt(sum + 1e-6);
  }

  const MixArgs& args_;
  const Sizes& s_;
  int64_t index_;
  const state::Segment& segment_;
  const state::PartView& view_;
  float* open_;
  const float* summary_;
  int64_t reached_ = 0;          // boundaries by drafts
  int64_t block_ = 0;            // position of the boundary that summary_ stands at
  std::vector<Doubles> states_;  // [HV]: of the last row of the chain
  ops::CausalConvArgs conv_;
};

}  // namespace

void mix(backend::Context&, const MixArgs& args) {
  for (size_t n = 0; n < args.batch->segments.size(); ++n)
    Walk(args, static_cast<int64_t>(n)).run();
  ops::causal_conv_store(conv_args(args));
}

}  // namespace heddle::mixers::gated_delta_net::ref
