// Highway, configured once for the whole project: three targets are compiled from the same source
// and chosen when the program runs (backend/target.h): AVX3_DL ("avx512": AVX-512 with VNNI), AVX2
// ("avx2", with FMA and F16C) and Highway's one-lane fallback ("scalar").
//
// A file with kernels looks like this (no include guard here, on purpose: the file is compiled
// once per target):
//
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "ops/elementwise/norm_cpu.cpp"  // this file
//   #include "backend/simd/simd.h"                          // foreach_target.h, then highway.h
//   // after simd.h: headers that are themselves compiled per target
//   #include "backend/simd/math-inl.h"
//   // ordinary headers may stand anywhere
//   #include "ops/elementwise/norm.h"
//
//   HWY_BEFORE_NAMESPACE();
//   namespace heddle::ops {
//   namespace HWY_NAMESPACE {
//   void norm_rows(const NormArgs& args, int64_t begin, int64_t end) { ... }  // the kernel
//   }  // namespace HWY_NAMESPACE
//   }  // namespace heddle::ops
//   HWY_AFTER_NAMESPACE();
//
//   #if HWY_ONCE
//   namespace heddle::ops {
//   HWY_EXPORT(norm_rows);
//   void cpu::norm(backend::Context& ctx, const NormArgs& args) {
//     const auto kernel = HWY_DYNAMIC_DISPATCH(norm_rows);  // once per call, outside the loops
//     ctx.pool.parallel_for(args.rows, 1, [&](int64_t b, int64_t e, int) { kernel(args, b, e); });
//   }
//   }  // namespace heddle::ops
//   #endif
//
// Kernel functions need external linkage or `static`, and must not be templates where exported. A
// lambda inside a kernel does not inherit the target's instruction set under g++ 12 unless it is
// inlined: hand work to the thread pool outside, in the HWY_ONCE part.
//
// Bits that do not depend on the target: use the F32x16 type of math-inl.h for sums over a row and
// its fma() for every fused step (Highway's MulAdd rounds twice in the scalar target).
#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL
#endif
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3)
#endif
#include <hwy/foreach_target.h>
// Must follow foreach_target.h, in every pass.
#include <hwy/highway.h>
