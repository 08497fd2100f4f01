// Which kernel a shape runs, and how a step is laid over the chip.
#include "backend/cuda/status.cuh"
#include "ops/linear_attention/linear_attention_cuda.h"
#include "ops/linear_attention/linear_decode.cuh"
#include "ops/linear_attention/linear_prepare.cuh"
#include "ops/linear_attention/linear_walk.cuh"

namespace heddle::ops::cuda {
namespace {

using linear::Problem;

// Blocks of threads that fill the chip; below it heads are split over more of them.
constexpr int64_t kFill = 132;

Problem problem(const LinearArgs& args) {
  Problem p;
  p.q = static_cast<const __nv_bfloat16*>(args.q);
  p.k = static_cast<const __nv_bfloat16*>(args.k);
  p.v = static_cast<const __nv_bfloat16*>(args.v);
  p.g = args.g;
  p.beta = args.beta;
  p.g_stride = args.g_stride;
  p.o = static_cast<__nv_bfloat16*>(args.o);
  p.segments = args.segments;
  p.chunks = args.chunks;
  p.workspace = args.workspace;
  p.key_heads = static_cast<int>(args.shape.key_heads);
  p.value_heads = static_cast<int>(args.shape.value_heads);
  return p;
}

// Calls with the rule of a shape; false if there is none.
template <class F>
bool with_rule(const LinearShape& s, F call) {
  if (s.key_width != 128 || s.key_heads <= 0 || s.value_heads % s.key_heads != 0) return false;
  const bool delta = s.write == LinearWrite::kDelta, channel = s.gate == LinearGate::kChannel;
  if (channel && (!delta || s.key_heads != s.value_heads)) return false;
  if (s.value_width == 128) {
    if (channel)
      call(linear::Rule<128, 128, true, true>{});
    else if (delta)
      call(linear::Rule<128, 128, true, false>{});
    else
      call(linear::Rule<128, 128, false, false>{});
    return true;
  }
  if (s.value_width == 64 && !delta) {
    call(linear::Rule<128, 64, false, false>{});
    return true;
  }
  return false;
}

cudaStream_t handle(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

// More shared memory than a kernel gets unasked.
template <class Kernel>
Status allow_shared(Kernel kernel, int bytes) {
  return backend::cuda::status_of(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
      "asking for shared memory of linear attention");
}

template <class R, int VS, bool kPaired>
Status walk(const Stream& stream, const Problem& p, int64_t segments) {
  if (segments == 0) return {};
  constexpr int bytes = sizeof(linear::WalkShared<R, VS, kPaired>);
  if (auto status = allow_shared(linear::walk_kernel<R, VS, kPaired>, bytes); !status)
    return status;
  const dim3 grid(R::V / VS, static_cast<unsigned>(p.value_heads), static_cast<unsigned>(segments));
  linear::walk_kernel<R, VS, kPaired><<<grid, VS*(kPaired ? 4 : 2), bytes, handle(stream)>>>(p);
  return backend::cuda::launched("linear attention, the walk");
}

template <class R>
Status prefill(const Stream& stream, const LinearArgs& args) {
  const Problem p = problem(args);
  constexpr int bytes = sizeof(linear::PrepareShared<R>);
  if (auto status = allow_shared(linear::prepare_kernel<R>, bytes); !status) return status;
  const auto grid = static_cast<unsigned>(args.chunk_count * p.key_heads);
  linear::prepare_kernel<R><<<grid, linear::kBlocks * 32, bytes, handle(stream)>>>(p);
  if (auto status = backend::cuda::launched("linear attention, chunks"); !status) return status;
  if (args.segment_count * p.value_heads * (R::V / 64) <= kFill)
    return walk<R, 32, true>(stream, p, args.segment_count);
  return walk<R, R::V, false>(stream, p, args.segment_count);
}

template <class R>
Status decode(const Stream& stream, const LinearArgs& args) {
  constexpr int bytes = sizeof(linear::DecodeShared<R>);
  if (auto status = allow_shared(linear::decode_kernel<R>, bytes); !status) return status;
  const dim3 grid(static_cast<unsigned>(args.shape.value_heads),
                  static_cast<unsigned>(args.segment_count));
  linear::decode_kernel<R><<<grid, R::V * 2, bytes, handle(stream)>>>(problem(args));
  return backend::cuda::launched("linear attention, decode");
}

template <class R>
Status fold(const Stream& stream, const LinearArgs& args) {
  const dim3 grid(static_cast<unsigned>(args.shape.value_heads),
                  static_cast<unsigned>(args.segment_count));
  linear::fold_kernel<R><<<grid, R::V * 2, 0, handle(stream)>>>(problem(args));
  return backend::cuda::launched("linear attention, fold");
}

Status no_kernel(const LinearShape& s) {
  return fail("no GPU kernel of linear attention for {} key heads of {} and {} value heads of {}",
              s.key_heads, s.key_width, s.value_heads, s.value_width);
}

}  // namespace

bool linear_supported(const LinearShape& shape) {
  return with_rule(shape, [](auto) {});
}

int64_t linear_workspace_bytes(const LinearShape& shape, int64_t chunk_count) {
  int64_t bytes = 0;
  with_rule(shape, [&](auto rule) {
    bytes = chunk_count * shape.value_heads * decltype(rule)::kWorkspace;
  });
  return bytes;
}

Status linear_prefill(const Stream& stream, const LinearArgs& args) {
  if (args.chunk_count == 0) return {};
  Status status = no_kernel(args.shape);
  with_rule(args.shape, [&](auto rule) { status = prefill<decltype(rule)>(stream, args); });
  return status;
}

Status linear_decode(const Stream& stream, const LinearArgs& args) {
  if (args.segment_count == 0) return {};
  Status status = no_kernel(args.shape);
  with_rule(args.shape, [&](auto rule) { status = decode<decltype(rule)>(stream, args); });
  return status;
}

Status linear_fold(const Stream& stream, const LinearArgs& args) {
  if (args.segment_count == 0) return {};
  Status status = no_kernel(args.shape);
  with_rule(args.shape, [&](auto rule) { status = fold<decltype(rule)>(stream, args); });
  return status;
}

}  // namespace heddle::ops::cuda
