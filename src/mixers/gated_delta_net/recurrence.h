#pragma once
// The equations of README.md, token by token, without records or blocks, in precision T, over rows
// of projections from position 0. In float64 it is what tests compare with; in float32 it is the
// naive implementation whose error, doubled, is the budget of the kernels.
#include <algorithm>
#include <cmath>
#include <vector>

#include "mixers/gated_delta_net/kernels.h"

namespace heddle::mixers::gated_delta_net {

// Of `args`: sizes and weights. inputs [T][projected()]; result [T][value_width()].
template <class T>
std::vector<std::vector<T>> recurrence(const MixArgs& args,
                                       const std::vector<std::vector<T>>& inputs) {
  const Sizes& s = *args.sizes;
  const auto kd = static_cast<size_t>(s.key_dim), vd = static_cast<size_t>(s.value_dim);
  const auto sigmoid = [](T x) { return T(1) / (T(1) + std::exp(-x)); };
  std::vector<std::vector<T>> result;
  std::vector<std::vector<T>> states(static_cast<size_t>(s.value_heads),
                                     std::vector<T>(kd * vd, T(0)));
  for (size_t t = 0; t < inputs.size(); ++t) {
    std::vector<T> c(static_cast<size_t>(s.channels()));
    for (size_t i = 0; i < c.size(); ++i) {
      T sum = 0;
      for (size_t j = 0; j < static_cast<size_t>(s.taps); ++j) {
        const size_t back = static_cast<size_t>(s.taps) - 1 - j;
        if (back <= t) sum += T(args.conv[j * c.size() + i]) * inputs[t - back][i];
      }
      c[i] = sum * sigmoid(sum);
    }
    const auto normalise = [&](size_t at, T scale) {
      T sum = 0;
      for (size_t i = 0; i < kd; ++i) sum += c[at + i] * c[at + i];
      for (size_t i = 0; i < kd; ++i) c[at + i] *= scale / std::sqrt(sum + T(1e-6));
    };
    const size_t heads = static_cast<size_t>(s.key_heads);
    for (size_t h = 0; h < heads; ++h) {
      normalise(h * kd, T(1) / std::sqrt(T(kd)));
      normalise((heads + h) * kd, T(1));
    }
    std::vector<T> y(static_cast<size_t>(s.value_width()));
    for (size_t head = 0; head < static_cast<size_t>(s.value_heads); ++head) {
      const auto h = static_cast<size_t>(s.key_head(static_cast<int64_t>(head)));
      const T* q = c.data() + h * kd;
      const T* k = c.data() + (heads + h) * kd;
      const T* v = c.data() + 2 * heads * kd + head * vd;
      const T* z = inputs[t].data() + c.size() + head * vd;
      const T* gates = inputs[t].data() + c.size() + y.size();
      const T a = gates[static_cast<size_t>(s.value_heads) + head] + T(args.dt_bias[head]);
      const T g = T(args.decay[head]) * (std::max(a, T(0)) + std::log1p(std::exp(-std::abs(a))));
      const T beta = sigmoid(gates[head]);
      std::vector<T>& state = states[head];
      std::vector<T> o(vd);
      T squares = 0;
      for (size_t i = 0; i < vd; ++i) {
        T read = 0;
        for (size_t j = 0; j < kd; ++j) {
          state[j * vd + i] *= std::exp(g);
          read += state[j * vd + i] * k[j];
        }
        const T d = beta * (v[i] - read);
        for (size_t j = 0; j < kd; ++j) {
          state[j * vd + i] += k[j] * d;
          o[i] += state[j * vd + i] * q[j];
        }
        squares += o[i] * o[i];
      }
      const T scale = T(1) / std::sqrt(squares / T(vd) + T(s.norm_eps));
      for (size_t i = 0; i < vd; ++i)
        y[head * vd + i] = o[i] * scale * T(args.norm[i]) * z[i] * sigmoid(z[i]);
    }
    result.push_back(std::move(y));
  }
  return result;
}

}  // namespace heddle::mixers::gated_delta_net
