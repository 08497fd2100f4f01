// Elementwise passes over logits and candidates: one exponential for a weight, else bound by
// memory. Sums have 16 lanes and one tree inside a block, and go on in float64 from block to block.
#include "ops/sample/sample_kernels.h"

#include <algorithm>
#include <cstring>
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/sample/sample_kernels.cpp"
#include "backend/simd/simd.h"
// After simd.h: compiled per target.
#include "backend/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heddle::ops {
namespace HWY_NAMESPACE {
using namespace backend::HWY_NAMESPACE;

static constexpr float kInfinity = std::numeric_limits<float>::infinity();

static HWY_INLINE F32x16 load_padded(const float* p, int64_t count, float fill) {
  return count >= 16 ? load16(p) : load16_partial(p, count, fill);
}

// e^((x - highest) / temperature); highest must be finite.
static HWY_INLINE F32x16 weights16(F32x16 x, F32x16 highest, F32x16 inverse_temperature) {
  return exp_of_negative(mul(sub(x, highest), inverse_temperature));
}

// Whether every value seen is below +inf, and none is NaN: one answer at the end of a block.
struct AllFinite {
  hn::Mask<DF> parts[kParts];
  HWY_INLINE AllFinite() {
    for (auto& part : parts) part = hn::Eq(hn::Zero(DF()), hn::Zero(DF()));
  }
  HWY_INLINE void see(F32x16 x) {
    for (int i = 0; i < kParts; ++i)
      parts[i] = hn::And(parts[i], hn::Lt(x.v[i], hn::Set(DF(), kInfinity)));
  }
  HWY_INLINE bool holds() const {
    bool all = true;
    for (const auto& part : parts) all &= hn::AllTrue(DF(), part);
    return all;
  }
};

// 0 where x is below least (or least is NaN).
static HWY_INLINE F32x16 if_at_least(F32x16 x, F32x16 least, F32x16 value) {
  return F32x16::build(
      [&](int i) HWY_ATTR { return hn::IfThenElseZero(hn::Ge(x.v[i], least.v[i]), value.v[i]); });
}

void scan_blocks(const Scan& scan, int64_t begin, int64_t end) {
  const F32x16 inverse_temperature = set16(scan.inverse_temperature);
  for (int64_t b = begin; b < end; ++b) {
    const float* x = scan.logits + b * kSampleBlock;
    const int64_t count = std::min(kSampleBlock, scan.vocab - b * kSampleBlock);
    F32x16 top = set16(-kInfinity);
    AllFinite seen;
    for (int64_t i = 0; i < count; i += 16) {
      const F32x16 v = load_padded(x + i, count - i, -kInfinity);
      seen.see(v);
      top = max(top, v);
    }
    const bool finite = seen.holds();
    const float highest = finite ? max_lane(top) : kInfinity;
    scan.highest[b] = highest;
    if (!scan.sums) continue;
    scan.mass[b] = 0;
    if (!finite || highest == -kInfinity) continue;
    F32x16 total = zero16();
    for (int64_t i = 0; i < count; i += 16) {
      __builtin_prefetch(x + kSampleBlock + i);  // the next block comes in meanwhile
      total = add(total, weights16(load_padded(x + i, count - i, -kInfinity), set16(highest),
                                   inverse_temperature));
    }
    scan.mass[b] = sum(total);
  }
}

void weigh_block(const Scan& scan, int64_t block, float* weight) {
  const float* x = scan.logits + block * kSampleBlock;
  const int64_t count = std::min(kSampleBlock, scan.vocab - block * kSampleBlock);
  for (int64_t i = 0; i < count; i += 16)
    store16(weights16(load_padded(x + i, count - i, -kInfinity), set16(scan.highest[block]),
                      set16(scan.inverse_temperature)),
            weight + i);
}

void scale_blocks(const Scan& scan, float highest) {
  for (int64_t b = 0; b < scan.blocks(); b += 16) {
    const F32x16 scale =
        weights16(load16(scan.highest + b), set16(highest), set16(scan.inverse_temperature));
    store16(mul(load16(scan.mass + b), scale), scan.mass + b);
  }
}

// Bit i: lane i is at least `least`.
static HWY_INLINE uint32_t bits_at_least(F32x16 x, float least) {
  const DF d;
  uint32_t bits = 0;
  for (int i = 0; i < kParts; ++i) {
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, hn::Ge(x.v[i], hn::Set(d, least)), bytes);
    uint32_t part;
    std::memcpy(&part, bytes, sizeof part);
    bits |= part << (i * kLanes);
  }
  return bits;
}

// Both write what may go before they know that it stays: no branch depends on a single logit.
// (Highway's Compress copies its table at every call under g++ 12.)
void gather(const Scan& scan, float least, Candidates& out) {
  int64_t count = 0;
  for (int64_t b = 0; b < scan.blocks(); ++b) {
    if (scan.highest[b] < least) continue;
    const int64_t end = std::min(scan.vocab, (b + 1) * kSampleBlock);
    for (int64_t i = b * kSampleBlock; i < end; i += 16) {
      const uint32_t take = bits_at_least(load_padded(scan.logits + i, end - i, -kInfinity), least);
      if (take == 0) continue;
      for (int64_t k = 0; k < std::min<int64_t>(16, end - i); ++k) {
        out.logit[count] = scan.logits[i + k];
        out.token[count] = static_cast<int32_t>(i + k);
        count += take >> k & 1;
      }
    }
  }
  store16(set16(-kInfinity), out.logit + count);
  out.count = count;
}

void filter(Candidates& c, float least) {
  int64_t count = 0;
  for (int64_t i = 0; i < c.count; i += 16) {
    const uint32_t take = bits_at_least(load16(c.logit + i), least);
    if (take == 0) continue;
    for (int64_t k = 0; k < 16; ++k) {
      c.logit[count] = c.logit[i + k];
      c.token[count] = c.token[i + k];
      c.weight[count] = c.weight[i + k];
      count += take >> k & 1;
    }
  }
  store16(set16(-kInfinity), c.logit + count);
  c.count = count;
}

void weigh(Candidates& c, float highest, float inverse_temperature) {
  for (int64_t i = 0; i < c.count; i += 16)
    store16(weights16(load16(c.logit + i), set16(highest), set16(inverse_temperature)),
            c.weight + i);
}

int64_t count_from(const Candidates& c, float least) {
  const DF d;
  int64_t count = 0;
  for (int64_t i = 0; i < c.count; i += kLanes)
    count += static_cast<int64_t>(
        hn::CountTrue(d, hn::Ge(hn::LoadU(d, c.logit + i), hn::Set(d, least))));
  return count;
}
double mass_from(const Candidates& c, float least) {
  double mass = 0;
  for (int64_t b = 0; b < c.count; b += kSampleBlock) {
    F32x16 total = zero16();
    for (int64_t i = b; i < std::min(b + kSampleBlock, c.count); i += 16)
      total = add(total, if_at_least(load16(c.logit + i), set16(least), load16(c.weight + i)));
    mass += sum(total);
  }
  return mass;
}

void sum_blocks(const Candidates& c, float* out) {
  for (int64_t b = 0; b < c.count; b += kSampleBlock) {
    F32x16 total = zero16();
    for (int64_t i = b; i < std::min(b + kSampleBlock, c.count); i += 16)
      total = add(total, load_padded(c.weight + i, c.count - i, 0.0f));
    *out++ = sum(total);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace heddle::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heddle::ops {

HWY_EXPORT(scan_blocks);
HWY_EXPORT(weigh_block);
HWY_EXPORT(scale_blocks);
HWY_EXPORT(gather);
HWY_EXPORT(filter);
HWY_EXPORT(weigh);
HWY_EXPORT(count_from);
HWY_EXPORT(mass_from);
HWY_EXPORT(sum_blocks);

void cpu::scan_blocks(const Scan& scan, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(scan_blocks)(scan, begin, end);
}
void cpu::scale_blocks(const Scan& scan, float highest) {
  HWY_DYNAMIC_DISPATCH(scale_blocks)(scan, highest);
}
void cpu::weigh_block(const Scan& scan, int64_t block, float* weight) {
  HWY_DYNAMIC_DISPATCH(weigh_block)(scan, block, weight);
}
void cpu::gather(const Scan& scan, float least, Candidates& out) {
  HWY_DYNAMIC_DISPATCH(gather)(scan, least, out);
}
void cpu::filter(Candidates& candidates, float least) {
  HWY_DYNAMIC_DISPATCH(filter)(candidates, least);
}
void cpu::weigh(Candidates& candidates, float highest, float inverse_temperature) {
  HWY_DYNAMIC_DISPATCH(weigh)(candidates, highest, inverse_temperature);
}
int64_t cpu::count_from(const Candidates& candidates, float least) {
  return HWY_DYNAMIC_DISPATCH(count_from)(candidates, least);
}
double cpu::mass_from(const Candidates& candidates, float least) {
  return HWY_DYNAMIC_DISPATCH(mass_from)(candidates, least);
}
void cpu::sum_blocks(const Candidates& candidates, float* out) {
  HWY_DYNAMIC_DISPATCH(sum_blocks)(candidates, out);
}

}  // namespace heddle::ops
#endif
