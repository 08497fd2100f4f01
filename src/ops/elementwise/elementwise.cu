#include <algorithm>

#include "backend/cuda/status.cuh"
#include "base/check.h"
#include "ops/elementwise/elementwise_cuda.h"

namespace heddle::ops::cuda {
namespace {

using backend::cuda::launched;

constexpr int kThreads = 256;

cudaStream_t raw(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

unsigned blocks_for(int64_t count) {
  return static_cast<unsigned>(std::min<int64_t>((count + kThreads - 1) / kThreads, 132 * 16));
}

// The sum over a block of kThreads, in every thread; the same tree whatever the row.
__device__ float block_sum(float value) {
  __shared__ float parts[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < kThreads / 32; ++i) total += parts[i];
  return total;
}

// One vector a block. kAdds: x += delta before.
template <bool kAdds>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(float* base, int64_t x_stride, const float* delta, int64_t width, int64_t groups,
                const float* weight, float eps, float* out, int64_t y_stride) {
  const int64_t row = blockIdx.x / groups, column = blockIdx.x % groups * width;
  float* x = base + row * x_stride + column;
  float* y = out + row * y_stride + column;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    float value = x[i];
    if (kAdds) x[i] = value = value + delta[row * x_stride + i];
    squares += value * value;
  }
  const float mean = block_sum(squares) / static_cast<float>(width);
  const float inverse = 1 / sqrtf(mean + eps);
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    y[i] = x[i] * inverse * (weight != nullptr ? weight[i] : 1.0f);
}

struct Frequencies {
  double values[kMaxRopeHalf];
};

// One token a block: its angles once for all heads.
__global__ void __launch_bounds__(kThreads)
    rope_kernel(float* base, int64_t stride, int heads, int64_t width, const int32_t* positions,
                const __grid_constant__ Frequencies frequencies, int half, float scale) {
  __shared__ float2 turns[kMaxRopeHalf];
  const int64_t token = blockIdx.x;
  for (int i = threadIdx.x; i < half; i += kThreads) {
    double s, c;
    sincos(positions[token] * frequencies.values[i], &s, &c);
    turns[i] = make_float2(static_cast<float>(c * scale), static_cast<float>(s * scale));
  }
  __syncthreads();
  for (int n = threadIdx.x; n < heads * half; n += kThreads) {
    const int i = n % half;
    float* x = base + token * stride + n / half * width + i;
    const float a = x[0], b = x[half];
    x[0] = a * turns[i].x - b * turns[i].y;
    x[half] = b * turns[i].x + a * turns[i].y;
  }
}

__device__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

template <Activation kActivation>
__global__ void __launch_bounds__(kThreads)
    gated_kernel(const float* gate_up, int64_t count, int64_t width, float* out) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < count;
       i += int64_t{kThreads} * gridDim.x) {
    const float* row = gate_up + i / width * 2 * width + i % width;
    const float g = row[0];
    const float act = kActivation == Activation::silu
                          ? g * sigmoid(g)
                          : 0.5f * g * (1 + tanhf(0.79788456f * (g + 0.044715f * g * g * g)));
    out[i] = act * row[width];
  }
}

__global__ void __launch_bounds__(kThreads)
    sigmoid_gate_kernel(const float* gate, int64_t gate_stride, int64_t count, int64_t width,
                        float* y, int64_t y_stride) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < count;
       i += int64_t{kThreads} * gridDim.x)
    y[i / width * y_stride + i % width] *= sigmoid(gate[i / width * gate_stride + i % width]);
}

__global__ void __launch_bounds__(kThreads)
    add_kernel(const float* x, int64_t count, float* y, float x_scale, float y_scale) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < count;
       i += int64_t{kThreads} * gridDim.x)
    y[i] = __fadd_rn(__fmul_rn(y[i], y_scale), __fmul_rn(x[i], x_scale));
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(const uint16_t* table, const int32_t* ids, int64_t count, int64_t width,
                  float scale, float* out) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < count;
       i += int64_t{kThreads} * gridDim.x) {
    const uint32_t bits = table[ids[i / width] * width + i % width];
    out[i] = scale * __uint_as_float(bits << 16);
  }
}

}  // namespace

Status rms_norm(const Stream& stream, const RmsNormArgs& args) {
  if (args.rows * args.groups == 0) return {};
  norm_kernel<false><<<static_cast<unsigned>(args.rows * args.groups), kThreads, 0, raw(stream)>>>(
      const_cast<float*>(args.x), args.x_stride, nullptr, args.width, args.groups, args.weight,
      args.eps, args.y, args.y_stride);
  return launched("rms_norm");
}

Status add_rms_norm(const Stream& stream, const AddRmsNormArgs& args) {
  if (args.rows == 0) return {};
  norm_kernel<true><<<static_cast<unsigned>(args.rows), kThreads, 0, raw(stream)>>>(
      args.x, args.width, args.delta, args.width, 1, args.weight, args.eps, args.y, args.width);
  return launched("add_rms_norm");
}

Status rope(const Stream& stream, const RopeArgs& args) {
  const auto half = static_cast<int64_t>(args.rope->inv_freq.size());
  HEDDLE_CHECK(half <= kMaxRopeHalf, "{} frequencies", half);
  if (args.tokens == 0 || half == 0) return {};
  Frequencies frequencies;
  std::copy(args.rope->inv_freq.begin(), args.rope->inv_freq.end(), frequencies.values);
  rope_kernel<<<static_cast<unsigned>(args.tokens), kThreads, 0, raw(stream)>>>(
      args.x, args.stride, static_cast<int>(args.heads), args.width, args.positions, frequencies,
      static_cast<int>(half), static_cast<float>(args.rope->scale));
  return launched("rope");
}

Status gated(const Stream& stream, const GatedArgs& args) {
  const int64_t count = args.tokens * args.width;
  if (count == 0) return {};
  const auto kernel = args.activation == Activation::silu ? gated_kernel<Activation::silu>
                                                          : gated_kernel<Activation::gelu_tanh>;
  kernel<<<blocks_for(count), kThreads, 0, raw(stream)>>>(args.gate_up, count, args.width,
                                                          args.out);
  return launched("gated");
}

Status sigmoid_gate(const Stream& stream, const SigmoidGateArgs& args) {
  const int64_t count = args.tokens * args.width;
  if (count == 0) return {};
  sigmoid_gate_kernel<<<blocks_for(count), kThreads, 0, raw(stream)>>>(
      args.gate, args.gate_stride, count, args.width, args.y, args.y_stride);
  return launched("sigmoid_gate");
}

Status add(const Stream& stream, const AddArgs& args) {
  if (args.count == 0) return {};
  add_kernel<<<blocks_for(args.count), kThreads, 0, raw(stream)>>>(args.x, args.count, args.y,
                                                                   args.x_scale, args.y_scale);
  return launched("add");
}

Status gather(const Stream& stream, const GatherArgs& args) {
  const int64_t count = args.tokens * args.width;
  if (count == 0) return {};
  gather_kernel<<<blocks_for(count), kThreads, 0, raw(stream)>>>(args.table, args.ids, count,
                                                                 args.width, args.scale, args.out);
  return launched("gather");
}

}  // namespace heddle::ops::cuda
