// Vector maths shared by the kernels, the same bits in every target.
//
// F32x16 is 16 logical lanes of float: one register under AVX-512, two under AVX2, 16 one-lane
// "vectors" in the scalar target. A sum over a row that keeps its partial sums in F32x16 and ends
// in sum() adds in one order everywhere, so its bits depend neither on the target nor on alignment.
// Every function here is elementwise (lane i of the result depends on lane i of the arguments
// only) except sum(), max_lane() and any_above().
#include <cmath>
#include <cstdint>
#include <cstring>

#include "backend/simd/simd.h"

#if defined(HEDDLE_BACKEND_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef HEDDLE_BACKEND_MATH_INL_H
#undef HEDDLE_BACKEND_MATH_INL_H
#else
#define HEDDLE_BACKEND_MATH_INL_H
#endif

HWY_BEFORE_NAMESPACE();
namespace heddle::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DI = hn::ScalableTag<int32_t>;
using VI = hn::Vec<DI>;

// Floats per register, registers per F32x16.
constexpr int64_t kLanes = HWY_LANES(float);
constexpr int kParts = static_cast<int>(16 / kLanes);

// a * b + c with one rounding, in every target.
HWY_INLINE VF fma(VF a, VF b, VF c) {
#if HWY_NATIVE_FMA
  return hn::MulAdd(a, b, c);
#else
  return hn::Set(DF(), std::fma(hn::GetLane(a), hn::GetLane(b), hn::GetLane(c)));
#endif
}
// c - a * b with one rounding.
HWY_INLINE VF nfma(VF a, VF b, VF c) {
#if HWY_NATIVE_FMA
  return hn::NegMulAdd(a, b, c);
#else
  return hn::Set(DF(), std::fma(-hn::GetLane(a), hn::GetLane(b), hn::GetLane(c)));
#endif
}

struct F32x16 {
  VF v[kParts];

  // Builds a value from f(part), each part's lanes being 16 / kParts neighbours.
  template <class F>
  static HWY_INLINE F32x16 build(F f) {
    F32x16 r;
    if constexpr (kParts == 1) {
      r.v[0] = f(0);
    } else if constexpr (kParts == 2) {
      r.v[0] = f(0);
      r.v[1] = f(1);
    } else {
      for (int i = 0; i < kParts; ++i) r.v[i] = f(i);
    }
    return r;
  }
};

HWY_INLINE F32x16 set16(float value) {
  return F32x16::build([&](int) HWY_ATTR { return hn::Set(DF(), value); });
}
HWY_INLINE F32x16 zero16() { return set16(0.0f); }
// 16 floats at any address.
HWY_INLINE F32x16 load16(const float* p) {
  return F32x16::build([&](int i) HWY_ATTR { return hn::LoadU(DF(), p + i * kLanes); });
}
HWY_INLINE void store16(F32x16 a, float* p) {
  for (int i = 0; i < kParts; ++i) hn::StoreU(a.v[i], DF(), p + i * kLanes);
}
// The first `count` (1..15) floats; the other lanes are `fill`.
HWY_INLINE F32x16 load16_partial(const float* p, int64_t count, float fill = 0.0f) {
  HWY_ALIGN float lanes[16];
  for (int64_t i = 0; i < 16; ++i) lanes[i] = i < count ? p[i] : fill;
  return load16(lanes);
}
HWY_INLINE void store16_partial(F32x16 a, float* p, int64_t count) {
  HWY_ALIGN float lanes[16];
  store16(a, lanes);
  std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}
// 16 bf16 values, widened (exact).
HWY_INLINE F32x16 load16_bf16(const uint16_t* p) {
  return F32x16::build([&](int i) HWY_ATTR {
    const hn::Rebind<uint16_t, DI> d16;
    const auto wide = hn::PromoteTo(hn::RebindToUnsigned<DI>(), hn::LoadU(d16, p + i * kLanes));
    return hn::BitCast(DF(), hn::ShiftLeft<16>(wide));
  });
}
// 16 f16 values, widened (exact).
HWY_INLINE F32x16 load16_f16(const uint16_t* p) {
  return F32x16::build([&](int i) HWY_ATTR {
    const hn::Rebind<hwy::float16_t, DF> d16;
    const hn::RebindToUnsigned<decltype(d16)> du16;
    return hn::PromoteTo(DF(), hn::BitCast(d16, hn::LoadU(du16, p + i * kLanes)));
  });
}
// Rounds to nearest even. Lanes must not be NaN.
HWY_INLINE void store16_bf16(F32x16 a, uint16_t* p) {
  for (int i = 0; i < kParts; ++i) {
    const hn::RebindToUnsigned<DI> du;
    const hn::Rebind<uint16_t, DI> d16;
    const auto bits = hn::BitCast(du, a.v[i]);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
    const auto high = hn::BitCast(DI(), hn::ShiftRight<16>(rounded));
    hn::StoreU(hn::DemoteTo(d16, high), d16, p + i * kLanes);
  }
}

#define HEDDLE_F32X16_BINARY(name, op)                                            \
  HWY_INLINE F32x16 name(F32x16 a, F32x16 b) {                                    \
    return F32x16::build([&](int i) HWY_ATTR { return hn::op(a.v[i], b.v[i]); }); \
  }
HEDDLE_F32X16_BINARY(add, Add)
HEDDLE_F32X16_BINARY(sub, Sub)
HEDDLE_F32X16_BINARY(mul, Mul)
HEDDLE_F32X16_BINARY(div, Div)
HEDDLE_F32X16_BINARY(min, Min)
HEDDLE_F32X16_BINARY(max, Max)
#undef HEDDLE_F32X16_BINARY

HWY_INLINE F32x16 sqrt(F32x16 a) {
  return F32x16::build([&](int i) HWY_ATTR { return hn::Sqrt(a.v[i]); });
}
HWY_INLINE F32x16 abs(F32x16 a) {
  return F32x16::build([&](int i) HWY_ATTR { return hn::Abs(a.v[i]); });
}
// a * b + c, one rounding.
HWY_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return F32x16::build([&](int i) HWY_ATTR { return fma(a.v[i], b.v[i], c.v[i]); });
}
// c - a * b, one rounding.
HWY_INLINE F32x16 nfma(F32x16 a, F32x16 b, F32x16 c) {
  return F32x16::build([&](int i) HWY_ATTR { return nfma(a.v[i], b.v[i], c.v[i]); });
}

namespace detail {
template <class Op>
HWY_INLINE float fold16(const F32x16& a, Op op) {
  HWY_ALIGN float lanes[16];
  store16(a, lanes);
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = op(lanes[i], lanes[i + width]);
  return lanes[0];
}
// Four floats to one: lanes i and i + 2, then 0 and 1.
#if HWY_TARGET != HWY_SCALAR
template <class Op>
HWY_INLINE float fold4(hn::Vec<hn::FixedTag<float, 4>> a, Op op) {
  a = op(a, hn::Shuffle1032(a));
  a = op(a, hn::Shuffle2301(a));
  return hn::GetLane(a);
}
template <class Op>
HWY_INLINE float fold_vector(const F32x16& a, Op op) {
  const hn::FixedTag<float, 8> d8;
  const hn::FixedTag<float, 4> d4;
#if HWY_TARGET == HWY_AVX2
  const auto eight = op(a.v[0], a.v[1]);
#else
  const auto eight = op(hn::LowerHalf(d8, a.v[0]), hn::UpperHalf(d8, a.v[0]));
#endif
  (void)d8;
  return fold4(op(hn::LowerHalf(d4, eight), hn::UpperHalf(d4, eight)), op);
}
#endif
struct AddOp {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    if constexpr (std::is_same_v<V, float>) {
      return a + b;
    } else {
      return hn::Add(a, b);
    }
  }
};
struct MaxOp {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    if constexpr (std::is_same_v<V, float>) {
      return a > b ? a : b;
    } else {
      return hn::Max(a, b);
    }
  }
};
}  // namespace detail

// Lanes i and i + 8, then i and i + 4, i + 2, i + 1: one tree in every target.
HWY_INLINE float sum(F32x16 a) {
#if HWY_TARGET == HWY_SCALAR
  return detail::fold16(a, detail::AddOp());
#else
  return detail::fold_vector(a, detail::AddOp());
#endif
}
HWY_INLINE float max_lane(F32x16 a) {
#if HWY_TARGET == HWY_SCALAR
  return detail::fold16(a, detail::MaxOp());
#else
  return detail::fold_vector(a, detail::MaxOp());
#endif
}

HWY_INLINE bool any_above(F32x16 a, float limit) {
  bool any = false;
  for (int i = 0; i < kParts; ++i) any |= !hn::AllFalse(DF(), hn::Gt(a.v[i], hn::Set(DF(), limit)));
  return any;
}

namespace detail {
// e^x = p 2^n with p from 0.7 to 1.42: range reduction by ln 2 in two parts (Cody and Waite), then
// a polynomial of degree 7 (Taylor coefficients: |r| <= 0.347, so its remainder is below 2^-27).
struct Power {
  VF p;
  VI n;
};
HWY_INLINE Power power(VF x) {
  const DF d;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const VF magic = hn::Set(d, 12582912.0f);
  const VF shifted = fma(x, hn::Set(d, 1.44269504f), magic);
  const VF n = hn::Sub(shifted, magic);
  VF r = nfma(n, hn::Set(d, 0.693359375f), x);
  r = nfma(n, hn::Set(d, -2.12194440e-4f), r);
  VF p = hn::Set(d, 1.98412698e-4f);
  p = fma(p, r, hn::Set(d, 1.38888889e-3f));
  p = fma(p, r, hn::Set(d, 8.33333333e-3f));
  p = fma(p, r, hn::Set(d, 4.16666667e-2f));
  p = fma(p, r, hn::Set(d, 1.66666667e-1f));
  p = fma(p, r, hn::Set(d, 0.5f));
  p = fma(hn::Mul(r, r), p, r);
  p = hn::Add(p, hn::Set(d, 1.0f));
  return {p, hn::Sub(hn::BitCast(DI(), shifted), hn::Set(DI(), 0x4b400000))};
}
}  // namespace detail

// e^x, at most 1.1 ulp from the true value (measured by math_test), +inf above 88.73, gradual
// underflow to 0 below -103.97.
// NaN is not preserved.
HWY_INLINE VF exp(VF x) {
  const DF d;
  const DI di;
  const detail::Power power =
      detail::power(hn::Min(hn::Max(x, hn::Set(d, -104.0f)), hn::Set(d, 89.0f)));
  // 2^n in two factors, so that n from -150 to 128 needs no special case.
  const VI half = hn::ShiftRight<1>(power.n);
  const VI bias = hn::Set(di, 127);
  const VF a = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const VF b = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(power.n, half), bias)));
  return hn::Mul(hn::Mul(power.p, a), b);
}
// e^x for x <= 0: the bits of exp(), save that it is 0 already below -87.68, half a step under
// 2^-126.
HWY_INLINE VF exp_of_negative(VF x) {
  const DF d;
  const detail::Power power = detail::power(hn::Max(x, hn::Set(d, -88.0f)));
  // At n = -127 these are the bits of 0.
  const VI bits = hn::ShiftLeft<23>(hn::Add(power.n, hn::Set(DI(), 127)));
  return hn::Mul(power.p, hn::BitCast(d, bits));
}
// 1 / (1 + e^-x), relative error at most 2.4e-7; 0 below -88.73.
HWY_INLINE VF sigmoid(VF x) {
  const VF one = hn::Set(DF(), 1.0f);
  return hn::Div(one, hn::Add(one, exp(hn::Neg(x))));
}
// x sigmoid(x).
HWY_INLINE VF silu(VF x) { return hn::Mul(x, sigmoid(x)); }
// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))
HWY_INLINE VF gelu_tanh(VF x) {
  const DF d;
  const VF inner = fma(hn::Mul(hn::Mul(x, x), x), hn::Set(d, 0.044715f), x);
  return hn::Mul(x, sigmoid(hn::Mul(hn::Set(d, 1.59576912f), inner)));
}

HWY_INLINE F32x16 exp(F32x16 x) {
  return F32x16::build([&](int i) HWY_ATTR { return exp(x.v[i]); });
}
HWY_INLINE F32x16 exp_of_negative(F32x16 x) {
  return F32x16::build([&](int i) HWY_ATTR { return exp_of_negative(x.v[i]); });
}
HWY_INLINE F32x16 sigmoid(F32x16 x) {
  return F32x16::build([&](int i) HWY_ATTR { return sigmoid(x.v[i]); });
}
HWY_INLINE F32x16 silu(F32x16 x) {
  return F32x16::build([&](int i) HWY_ATTR { return silu(x.v[i]); });
}
HWY_INLINE F32x16 gelu_tanh(F32x16 x) {
  return F32x16::build([&](int i) HWY_ATTR { return gelu_tanh(x.v[i]); });
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::backend
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
