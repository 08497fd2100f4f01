#pragma once
// Linear attention token by token on the host, of one sequence: in double the specification; in
// float with the operands of products rounded to bfloat16 (state, u) the naive form in the kernels'
// precision, whose error doubled is their budget.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "ops/linear_attention/linear_attention_cuda.h"

namespace heddle::test {

using heddle::ops::cuda::LinearShape;
using heddle::ops::cuda::LinearWrite;

// Rows of one sequence.
struct LinearInputs {
  std::vector<uint16_t> q, k, v;  // [T, HK, K], [T, HK, K], [T, HV, V]
  std::vector<float> g, beta;     // [T, HV, gates()], [T, HV]
  int64_t tokens = 0;
};

template <class T>
struct LinearResult {
  std::vector<T> o;      // [T, HV, V]
  std::vector<T> state;  // as a summary, after the last row
};

template <class T>
LinearResult<T> linear_recurrence(const LinearShape& s, const LinearInputs& in) {
  constexpr bool kRound = sizeof(T) == 4;
  const auto round = [](T x) {
    return kRound ? T(bf16_to_f32(f32_to_bf16(static_cast<float>(x)))) : x;
  };
  const int64_t kd = s.key_width, vd = s.value_width, ratio = s.value_heads / s.key_heads;
  LinearResult<T> out;
  out.o.resize(static_cast<size_t>(in.tokens * s.value_heads * vd));
  out.state.resize(static_cast<size_t>(s.summary_floats()));
  std::vector<T> state(static_cast<size_t>(kd * vd)), read(static_cast<size_t>(vd));
  for (int64_t h = 0; h < s.value_heads; ++h) {
    std::fill(state.begin(), state.end(), T(0));
    for (int64_t t = 0; t < in.tokens; ++t) {
      const uint16_t* k = in.k.data() + (t * s.key_heads + h / ratio) * kd;
      const uint16_t* q = in.q.data() + (t * s.key_heads + h / ratio) * kd;
      const uint16_t* v = in.v.data() + (t * s.value_heads + h) * vd;
      const float* g = in.g.data() + (t * s.value_heads + h) * s.gates();
      const T beta = in.beta[static_cast<size_t>(t * s.value_heads + h)];
      std::fill(read.begin(), read.end(), T(0));
      for (int64_t c = 0; c < kd; ++c) {
        const T decay = std::exp(T(g[s.gates() == 1 ? 0 : c])), x = T(bf16_to_f32(k[c]));
        T* row = state.data() + c * vd;
        for (int64_t i = 0; i < vd; ++i) {
          row[i] *= decay;
          read[static_cast<size_t>(i)] += round(row[i]) * x;
        }
      }
      for (int64_t i = 0; i < vd; ++i) {
        T& u = read[static_cast<size_t>(i)];
        const T value = T(bf16_to_f32(v[i]));
        u = round(beta * (s.write == LinearWrite::kDelta ? value - u : value));
      }
      T* o = out.o.data() + (t * s.value_heads + h) * vd;
      for (int64_t c = 0; c < kd; ++c) {
        const T x = T(bf16_to_f32(k[c])), y = T(bf16_to_f32(q[c]));
        T* row = state.data() + c * vd;
        for (int64_t i = 0; i < vd; ++i) {
          row[i] += x * read[static_cast<size_t>(i)];
          o[i] += round(row[i]) * y;
        }
      }
      for (int64_t i = 0; i < vd; ++i) o[i] = round(o[i]);
    }
    for (int64_t c = 0; c < kd; ++c)
      for (int64_t i = 0; i < vd; ++i)
        out.state[static_cast<size_t>(s.summary_index(h, c, i))] =
            state[static_cast<size_t>(c * vd + i)];
  }
  return out;
}

// ||x - y|| / ||y||; NaN where x holds one.
template <class A, class B>
double relative_error(const std::vector<A>& x, const std::vector<B>& y) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    error += d * d;
    norm += static_cast<double>(y[i]) * static_cast<double>(y[i]);
  }
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

}  // namespace heddle::test
