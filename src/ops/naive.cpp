#include "ops/naive.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/attention/packed_page.h"
#include "ops/matmul/matmul_layout.h"

namespace heddle::ops {

double relative_error(std::span<const float> got, std::span<const float> exact) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double want = exact[i];
    error += (got[i] - want) * (got[i] - want);
    norm += want * want;
  }
  return std::sqrt(error / std::max(norm, 1e-300));
}

double error_budget(std::span<const float> naive, std::span<const float> exact) {
  return 2 * std::max(relative_error(naive, exact), 0x1p-24);
}

namespace naive {

void matmul(backend::Context&, const MatmulArgs& args) {
  const PackedMatrix& w = *args.weights;
  const int64_t cols = w.cols();
  std::vector<float> x(static_cast<size_t>(args.tokens * cols));
  for (int64_t t = 0; t < args.tokens; ++t)
    std::copy_n(args.x + t * args.x_stride, cols, x.data() + t * cols);
  if (w.impl().any_blocks) {
    for (size_t b = 0; b + 32 <= x.size(); b += 32) {
      float largest = 0;
      for (size_t i = b; i < b + 32; ++i) largest = std::max(largest, std::abs(x[i]));
      const float scale = largest / 127;
      if (scale == 0) continue;
      for (size_t i = b; i < b + 32; ++i) x[i] = scale * std::nearbyint(x[i] / scale);
    }
  }
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t r = 0; r < w.rows(); ++r) {
    w.dequantize_row(r, row.data());
    for (int64_t t = 0; t < args.tokens; ++t) {
      float total = 0;
      for (int64_t k = 0; k < cols; ++k)
        total += x[static_cast<size_t>(t * cols + k)] * row[static_cast<size_t>(k)];
      float& y = args.y[t * args.y_stride + r];
      y = args.accumulate ? y + total : total;
    }
  }
}

void rms_norm(backend::Context&, const RmsNormArgs& args) {
  for (int64_t r = 0; r < args.rows * args.groups; ++r) {
    const int64_t column = r % args.groups * args.width;
    const float* x = args.x + r / args.groups * args.x_stride + column;
    float* y = args.y + r / args.groups * args.y_stride + column;
    float squares = 0;
    for (int64_t i = 0; i < args.width; ++i) squares += x[i] * x[i];
    const float inverse = 1 / std::sqrt(squares / static_cast<float>(args.width) + args.eps);
    for (int64_t i = 0; i < args.width; ++i)
      y[i] = x[i] * inverse * (args.weight != nullptr ? args.weight[i] : 1.0f);
  }
}

void rope(backend::Context&, const RopeArgs& args) {
  const auto half = static_cast<int64_t>(args.rope->inv_freq.size());
  const auto scale = static_cast<float>(args.rope->scale);
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = args.positions[t] * args.rope->inv_freq[static_cast<size_t>(i)];
      const float c = static_cast<float>(std::cos(angle)) * scale;
      const float s = static_cast<float>(std::sin(angle)) * scale;
      for (int64_t h = 0; h < args.heads; ++h) {
        float* p = args.x + t * args.stride + h * args.width + i;
        const float a = p[0];
        const float b = p[half];
        p[0] = a * c - b * s;
        p[half] = b * c + a * s;
      }
    }
  }
}

void gated(backend::Context&, const GatedArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t i = 0; i < args.width; ++i) {
      const float* row = args.gate_up + t * 2 * args.width + i;
      const float g = row[0];
      const float act = args.activation == Activation::silu
                            ? g / (1 + std::exp(-g))
                            : 0.5f * g * (1 + std::tanh(0.79788456f * (g + 0.044715f * g * g * g)));
      args.out[t * args.width + i] = act * row[args.width];
    }
  }
}

void sigmoid_gate(backend::Context&, const SigmoidGateArgs& args) {
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t i = 0; i < args.width; ++i)
      args.y[t * args.y_stride + i] *= 1 / (1 + std::exp(-args.gate[t * args.gate_stride + i]));
}

void causal_conv(backend::Context&, const CausalConvArgs& args) {
  for (size_t n = 0; n < args.batch->segments.size(); ++n) {
    const state::Segment& segment = args.batch->segments[n];
    for (int64_t i = 0; i < segment.length; ++i) {
      for (int64_t c = 0; c < args.channels; ++c) {
        float sum = args.bias != nullptr ? args.bias[c] : 0.0f;
        for (int64_t back = 0; back < args.taps; ++back) {
          const float* x = causal_conv_tap(args, static_cast<int64_t>(n), i, back);
          if (x != nullptr) sum += args.weights[(args.taps - 1 - back) * args.channels + c] * x[c];
        }
        args.y[(segment.row + i) * args.y_stride + c] =
            args.silu ? sum / (1 + std::exp(-sum)) : sum;
      }
    }
  }
}

namespace {

float read(DType dtype, const std::byte* page, int64_t index) {
  if (dtype == DType::bf16) return bf16_to_f32(reinterpret_cast<const uint16_t*>(page)[index]);
  return reinterpret_cast<const float*>(page)[index];
}

// One query head of a row at `position`.
void attend(const AttentionArgs& args, PlainPages& keys, PlainPages& values, int64_t position,
            int64_t h, const float* q, float* out) {
  const KvShape& s = args.kv.shape;
  const int64_t g = h / (args.heads / s.kv_heads);
  const int64_t first = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
  std::vector<float> p;
  float top = args.sinks != nullptr ? args.sinks[h] : -std::numeric_limits<float>::infinity();
  for (int64_t j = first; j <= position; ++j) {
    const std::byte* page = keys[j / 64];
    float dot = 0;
    for (int64_t d = 0; d < s.key_width; ++d)
      dot += q[d] * read(s.dtype, page, (g * s.key_width + d) * 64 + j % 64);
    dot *= args.scale;
    if (args.soft_cap > 0) dot = args.soft_cap * std::tanh(dot / args.soft_cap);
    p.push_back(dot);
    top = std::max(top, dot);
  }
  float total = args.sinks != nullptr ? std::exp(args.sinks[h] - top) : 0.0f;
  for (float& x : p) total += x = std::exp(x - top);
  for (int64_t e = 0; e < s.value_width; ++e) {
    float o = 0;
    for (int64_t j = first; j <= position; ++j)
      o += p[static_cast<size_t>(j - first)] *
           read(s.dtype, values[j / 64], s.value_at(g, j % 64, e));
    out[e] = o / total;
  }
}

}  // namespace

void attention(backend::Context&, const AttentionArgs& args) {
  const KvShape& s = args.kv.shape;
  const state::BatchView& batch = *args.kv.batch;
  for (size_t n = 0; n < batch.segments.size(); ++n) {
    const state::Segment& segment = batch.segments[n];
    const auto index = static_cast<int64_t>(n);
    PlainPages keys(args.kv.state->at(index, args.kv.key_part), s.key_part(0).page_bytes());
    PlainPages values(args.kv.state->at(index, args.kv.value_part), s.value_part(0).page_bytes());
    for (int64_t i = 0; i < segment.length; ++i) {
      const int64_t row = segment.row + i;
      for (int64_t h = 0; h < args.heads; ++h)
        attend(args, keys, values, segment.start + i, h,
               args.q + row * args.q_stride + h * s.key_width,
               args.out + row * args.out_stride + h * s.value_width);
    }
  }
}

}  // namespace naive
}  // namespace heddle::ops
