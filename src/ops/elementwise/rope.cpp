#include "ops/elementwise/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace heddle::ops {
namespace {

constexpr int64_t kTurnsPerLevel = 64;
constexpr int64_t kMaxRotary = 65536;

void scale_llama3(const RopeSpec& spec, std::vector<double>& inv_freq) {
  const double longest = spec.original_context / spec.low_freq_factor;
  const double shortest = spec.original_context / spec.high_freq_factor;
  for (double& f : inv_freq) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < shortest) continue;
    if (wavelength > longest) {
      f /= spec.factor;
      continue;
    }
    const double smooth = (spec.original_context / wavelength - spec.low_freq_factor) /
                          (spec.high_freq_factor - spec.low_freq_factor);
    f *= (1 - smooth) / spec.factor + smooth;
  }
}

void scale_yarn(const RopeSpec& spec, std::vector<double>& inv_freq) {
  const auto rotary = static_cast<double>(spec.rotary);
  // The dimension that turns n times over the original context.
  const auto dimension = [&](double n) {
    return rotary * std::log(spec.original_context / (2 * std::numbers::pi * n)) /
           (2 * std::log(spec.theta));
  };
  double low = dimension(spec.beta_fast);
  double high = dimension(spec.beta_slow);
  if (spec.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::clamp(low, 0.0, rotary - 1);
  high = std::clamp(high, 0.0, rotary - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = ramp * inv_freq[i] / spec.factor + (1 - ramp) * inv_freq[i];
  }
}

Status check(const RopeSpec& spec) {
  const auto positive = [](double value) { return std::isfinite(value) && value > 0; };
  if (spec.rotary < 0 || spec.rotary % 2 != 0 || spec.rotary > kMaxRotary)
    return fail("rope: rotary width {}: expected an even number of at most {}", spec.rotary,
                kMaxRotary);
  if (!positive(spec.theta) || spec.theta == 1)
    return fail("rope: theta {}: expected a positive number other than 1", spec.theta);
  if (!positive(spec.factor)) return fail("rope: factor {}: expected > 0", spec.factor);
  if (!spec.freq_factors.empty() &&
      static_cast<int64_t>(spec.freq_factors.size()) != spec.rotary / 2)
    return fail("rope: {} frequency factors: expected rotary / 2 = {}", spec.freq_factors.size(),
                spec.rotary / 2);
  for (float f : spec.freq_factors)
    if (!positive(f)) return fail("rope: frequency factor {}: expected > 0", f);
  if (spec.scaling != "none" && spec.scaling != "linear" && spec.scaling != "llama3" &&
      spec.scaling != "yarn")
    return fail("rope: scaling {}: expected none, linear, llama3 or yarn", spec.scaling);
  const bool needs_context = spec.scaling == "llama3" || spec.scaling == "yarn";
  if (needs_context && !positive(spec.original_context))
    return fail("rope: scaling {} needs the original context, got {}", spec.scaling,
                spec.original_context);
  if (spec.scaling == "llama3" &&
      (!positive(spec.low_freq_factor) || !(spec.high_freq_factor > spec.low_freq_factor)))
    return fail("rope: llama3 frequency factors low {} high {}: expected 0 < low < high",
                spec.low_freq_factor, spec.high_freq_factor);
  if (spec.scaling == "yarn" &&
      (!positive(spec.beta_fast) || !positive(spec.beta_slow) || !(spec.attention_factor >= 0)))
    return fail("rope: yarn beta_fast {} beta_slow {} attention factor {}: expected > 0, > 0, >= 0",
                spec.beta_fast, spec.beta_slow, spec.attention_factor);
  return {};
}

}  // namespace

Result<Rope> make_rope(const RopeSpec& spec) {
  HEDDLE_TRY_STATUS(check(spec));
  Rope rope;
  const int64_t half = spec.rotary / 2;
  rope.inv_freq.resize(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i)
    rope.inv_freq[static_cast<size_t>(i)] =
        std::pow(spec.theta, -2 * static_cast<double>(i) / static_cast<double>(spec.rotary));
  if (spec.scaling == "linear")
    for (double& f : rope.inv_freq) f /= spec.factor;
  if (spec.scaling == "llama3") scale_llama3(spec, rope.inv_freq);
  if (spec.scaling == "yarn") {
    scale_yarn(spec, rope.inv_freq);
    rope.scale = spec.attention_factor > 0 ? spec.attention_factor
                 : spec.factor > 1         ? 0.1 * std::log(spec.factor) + 1
                                           : 1.0;
  }
  for (size_t i = 0; i < spec.freq_factors.size(); ++i) rope.inv_freq[i] /= spec.freq_factors[i];

  rope.turns.resize(static_cast<size_t>(kRopeLevels * kTurnsPerLevel * 2 * half));
  double* turn = rope.turns.data();
  double unit = 1;  // 64^level
  for (int64_t level = 0; level < kRopeLevels; ++level, unit *= kTurnsPerLevel) {
    for (int64_t n = 0; n < kTurnsPerLevel; ++n, turn += 2 * half) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(n) * unit * rope.inv_freq[static_cast<size_t>(i)];
        turn[i] = std::cos(angle);
        turn[half + i] = std::sin(angle);
      }
    }
  }
  return rope;
}

void rope(backend::Context& ctx, const RopeArgs& args) {
  ctx.reference() ? ref::rope(ctx, args) : cpu::rope(ctx, args);
}

}  // namespace heddle::ops
