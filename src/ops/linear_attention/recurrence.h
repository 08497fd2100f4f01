#pragma once
// The recurrence of linear_attention.h token by token: as the specification over records and
// summaries (float64), and without them as the measure of errors, in any precision. The chunk
// algebra of the fast kernels appears nowhere.
//
// `Equations` is a mixer's rule in precision T:
//   using Real = T;
//   const FoldShape& shape() const;
//   std::vector<T> key(Row, key_head) const;         [K]; query alike
//   std::vector<T> value(Row, value_head) const;     [V]
//   T strength(Row, value_head) const;               beta
//   std::vector<T> log_decay(Row, value_head) const; g: one, or [K] (Decay::channel);
//                                                    Decay::constant: of any row
//   T skip(value_head) const;                        of v in o
//   std::vector<T> finish(Row, o [HV V]) const;      the row of y [HV V]
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/linear_attention/linear_attention.h"

namespace heddle::ops::linear_attention {

using State = std::vector<double>;  // [K, V] of one value head

inline State load_summary(const FoldShape& s, const float* summary, int64_t head) {
  State state(static_cast<size_t>(s.key_dim * s.value_dim), 0.0);
  if (summary == nullptr) return state;
  for (int64_t k = 0; k < s.key_dim; ++k)
    for (int64_t v = 0; v < s.value_dim; ++v)
      state[static_cast<size_t>(k * s.value_dim + v)] = summary[s.summary_index(head, k, v)];
  return state;
}

inline void store_summary(const FoldShape& s, const State& state, int64_t head, float* summary) {
  for (int64_t k = 0; k < s.key_dim; ++k)
    for (int64_t v = 0; v < s.value_pad(); ++v)
      summary[s.summary_index(head, k, v)] =
          v < s.value_dim ? static_cast<float>(state[static_cast<size_t>(k * s.value_dim + v)])
                          : 0.0f;
}

// The specification over one segment. The state of a chain is carried from row to row, which does
// the operations of a replay in their order; a row of a tree replays its own ancestors.
template <class Equations>
class Replay {
 public:
  Replay(const FoldArgs& args, const Equations& equations)
      : args_(args), s_(*args.shape), equations_(equations) {}

  void run(int64_t index) const {
    const state::Segment& segment = args_.batch->segments[static_cast<size_t>(index)];
    FoldWalk walk(segment, args_.state->at(index, args_.part), s_.fold);
    for (FoldSpan span; walk.next(span);) {
      const Ancestors ancestors(segment, span);
      std::vector<State> states;
      for (int64_t head = 0; head < s_.value_heads; ++head) {
        states.push_back(load_summary(s_, span.summary, head));
        for (int64_t slot = 0; slot < span.slot; ++slot)
          replay(span.records, slot, head, states.back());
      }
      for (int64_t t = 0; t < span.tokens; ++t) {
        const Row row{index, span.row + t, segment.row + span.row + t};
        if (ancestors.tree())
          for (int64_t head = 0; head < s_.value_heads; ++head) {
            State& state = states[static_cast<size_t>(head)];
            state = load_summary(s_, span.summary, head);
            for (const int64_t slot : ancestors.path(t)) replay(span.records, slot, head, state);
          }
        token(row, span.records, span.slot + t, states);
      }
      for (int64_t head = 0; span.next != nullptr && head < s_.value_heads; ++head)
        store_summary(s_, states[static_cast<size_t>(head)], head, span.next);
    }
  }

 private:
  // The decays of a record: one, or [K].
  std::vector<double> decays(const float* strip, int64_t head) const {
    std::vector<double> decays;
    if (s_.decay == Decay::constant) {
      decays = equations_.log_decay(Row{}, head);
    } else {
      const float* g = strip + s_.strip_gates();
      if (s_.decay == Decay::head)
        decays.push_back(g[s_.rank(head)]);
      else
        decays.assign(g, g + s_.key_dim);
    }
    for (double& decay : decays) decay = std::exp(decay);
    return decays;
  }

  // S <- D S + k u^T with what a record stores.
  void replay(const float* records, int64_t slot, int64_t head, State& state) const {
    const float* key = records + s_.strip_at(s_.key_head(head), slot);
    const float* value = key + s_.strip_value(s_.rank(head));
    const std::vector<double> decay = decays(key, head);
    for (int64_t k = 0; k < s_.key_dim; ++k)
      for (int64_t v = 0; v < s_.value_dim; ++v) {
        double& x = state[static_cast<size_t>(k * s_.value_dim + v)];
        x = decay[decay.size() == 1 ? 0 : static_cast<size_t>(k)] * x +
            static_cast<double>(key[k]) * static_cast<double>(value[v]);
      }
  }

  // k and the gates of every head, and zeros where values and gates are padded.
  void write_inputs(const Row& row, float* records, int64_t slot) const {
    for (int64_t h = 0; h < s_.key_heads; ++h) {
      float* strip = records + s_.strip_at(h, slot);
      std::fill(strip, strip + s_.strip(), 0.0f);
      const std::vector<double> k = equations_.key(row, h);
      for (size_t c = 0; c < k.size(); ++c) strip[c] = static_cast<float>(k[c]);
      for (int64_t r = 0; r < (s_.decay == Decay::head ? s_.repeat() : 1); ++r) {
        if (s_.decay == Decay::constant) continue;
        const std::vector<double> g = equations_.log_decay(row, s_.value_head(h, r));
        for (size_t c = 0; c < g.size(); ++c)
          strip[s_.strip_gates() + r + static_cast<int64_t>(c)] = static_cast<float>(g[c]);
      }
    }
  }

  // states: of every head before the row, and after it. Writes the record and the row of y.
  void token(const Row& row, float* records, int64_t slot, std::vector<State>& states) const {
    write_inputs(row, records, slot);
    std::vector<double> o;
    for (int64_t head = 0; head < s_.value_heads; ++head) {
      State& state = states[static_cast<size_t>(head)];
      const std::vector<double> out = read(row, records, slot, head, state);
      o.insert(o.end(), out.begin(), out.end());
      replay(records, slot, head, state);
    }
    const std::vector<double> y = equations_.finish(row, o);
    for (size_t i = 0; i < y.size(); ++i)
      args_.y[row.batch * s_.value_width() + static_cast<int64_t>(i)] = static_cast<float>(y[i]);
  }

  // o of one head, S being the state before the row; writes u of the record.
  std::vector<double> read(const Row& row, float* records, int64_t slot, int64_t head,
                           const State& state) const {
    const int64_t kd = s_.key_dim, vd = s_.value_dim, h = s_.key_head(head);
    float* key = records + s_.strip_at(h, slot);
    float* u = key + s_.strip_value(s_.rank(head));
    const std::vector<double> decay = decays(key, head);
    const std::vector<double> v = equations_.value(row, head), q = equations_.query(row, h);
    const double beta = equations_.strength(row, head), skip = equations_.skip(head);
    std::vector<double> out(static_cast<size_t>(vd));
    for (int64_t c = 0; c < vd; ++c) {
      const auto kept = [&](int64_t k) {
        return decay[decay.size() == 1 ? 0 : static_cast<size_t>(k)] *
               state[static_cast<size_t>(k * vd + c)];
      };
      double written = 0;
      for (int64_t k = 0; s_.corrects && k < kd; ++k)
        written += kept(k) * static_cast<double>(key[k]);
      const double d = beta * (v[static_cast<size_t>(c)] - written);
      double sum = 0;
      for (int64_t k = 0; k < kd; ++k)
        sum += (kept(k) + static_cast<double>(key[k]) * d) * q[static_cast<size_t>(k)];
      u[c] = static_cast<float>(d);
      if (skip != 0) sum += skip * v[static_cast<size_t>(c)];
      out[static_cast<size_t>(c)] = sum;
    }
    return out;
  }

  const FoldArgs& args_;
  const FoldShape& s_;
  const Equations& equations_;
};

// A step of the specification; the convolution's records are the caller's.
template <class Equations>
void reference_step(const FoldArgs& args, const Equations& equations) {
  const Replay<Equations> replay(args, equations);
  for (size_t n = 0; n < args.batch->segments.size(); ++n) replay.run(static_cast<int64_t>(n));
}

// The rows of y [tokens][HV V] of a sequence from position 0, without records or blocks. In float64
// what tests compare with; in float32 the naive implementation whose error, doubled, is the budget
// of the kernels.
template <class Equations, class T = typename Equations::Real>
std::vector<std::vector<T>> recurrence(const Equations& equations, int64_t tokens) {
  const FoldShape& s = equations.shape();
  const auto kd = static_cast<size_t>(s.key_dim), vd = static_cast<size_t>(s.value_dim);
  std::vector<std::vector<T>> states(static_cast<size_t>(s.value_heads),
                                     std::vector<T>(kd * vd, T(0)));
  std::vector<std::vector<T>> result;
  for (int64_t t = 0; t < tokens; ++t) {
    const Row row{0, t, t};
    std::vector<T> o;
    for (int64_t head = 0; head < s.value_heads; ++head) {
      std::vector<T>& state = states[static_cast<size_t>(head)];
      const std::vector<T> q = equations.query(row, s.key_head(head));
      const std::vector<T> k = equations.key(row, s.key_head(head));
      const std::vector<T> v = equations.value(row, head), g = equations.log_decay(row, head);
      const T beta = equations.strength(row, head), skip = equations.skip(head);
      for (size_t i = 0; i < vd; ++i) {
        T written = 0, out = 0;
        for (size_t j = 0; j < kd; ++j) {
          state[j * vd + i] *= std::exp(g[g.size() == 1 ? 0 : j]);
          if (s.corrects) written += state[j * vd + i] * k[j];
        }
        const T d = beta * (v[i] - written);
        for (size_t j = 0; j < kd; ++j) {
          state[j * vd + i] += k[j] * d;
          out += state[j * vd + i] * q[j];
        }
        o.push_back(out + skip * v[i]);
      }
    }
    result.push_back(equations.finish(row, o));
  }
  return result;
}

}  // namespace heddle::ops::linear_attention
