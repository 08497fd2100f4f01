#pragma once
// What rules are written with in the specification: rows of projections, of which the first
// channels pass a convolution, and the small functions of gates and norms. In precision T.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/conv/causal_conv.h"
#include "ops/linear_attention/linear_attention.h"

namespace heddle::ops::linear_attention {

// Rows of a batch: conv.x are the projections. In float64.
struct BatchInputs {
  using Real = double;
  const CausalConvArgs& conv;

  double projected(const Row& row, int64_t column) const {
    return conv.x[row.batch * conv.x_stride + column];
  }
  double convolved(const Row& row, int64_t channel) const {
    return ref::causal_conv_at(conv, row.segment, row.index, channel);
  }
};

// Rows of one sequence from position 0. Of conv: weights and sizes; SiLU follows it.
template <class T>
struct SequenceInputs {
  using Real = T;
  const CausalConvArgs& conv;
  const std::vector<std::vector<T>>& rows;

  T projected(const Row& row, int64_t column) const {
    return rows[static_cast<size_t>(row.index)][static_cast<size_t>(column)];
  }
  T convolved(const Row& row, int64_t channel) const {
    T sum = conv.bias == nullptr ? T(0) : T(conv.bias[channel]);
    for (int64_t j = 0; j < conv.taps; ++j) {
      const int64_t t = row.index - (conv.taps - 1 - j);
      if (t >= 0)
        sum += T(conv.weights[j * conv.channels + channel]) *
               rows[static_cast<size_t>(t)][static_cast<size_t>(channel)];
    }
    return sum / (T(1) + std::exp(-sum));
  }
};

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}
template <class T>
T silu(T x) {
  return x * sigmoid(x);
}
template <class T>
T softplus(T x) {
  return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
}

// x / sqrt(sum x^2 + 1e-6) / divisor
template <class T>
std::vector<T> unit_length(std::vector<T> x, T divisor) {
  T sum = 0;
  for (const T value : x) sum += value * value;
  const T scale = T(1) / std::sqrt(sum + T(1e-6)) / divisor;
  for (T& value : x) value *= scale;
  return x;
}

// x / sqrt(mean x^2 + eps) w, for every `width` values of x on their own; w [width].
template <class T>
std::vector<T> rms_norm(std::vector<T> x, int64_t width, const float* w, double eps) {
  const auto count = static_cast<size_t>(width);
  for (size_t begin = 0; begin < x.size(); begin += count) {
    T sum = 0;
    for (size_t i = begin; i < begin + count; ++i) sum += x[i] * x[i];
    const T scale = T(1) / std::sqrt(sum / T(count) + T(eps));
    for (size_t i = begin; i < begin + count; ++i) x[i] = x[i] * scale * T(w[i - begin]);
  }
  return x;
}

}  // namespace heddle::ops::linear_attention
