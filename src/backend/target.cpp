#include "backend/target.h"

#include <hwy/targets.h>

#include <array>

namespace heddle::backend {
namespace {

struct Target {
  std::string_view name;
  int64_t mask;  // Highway's bit; 0: what remains when every other target is disabled
};
constexpr std::array<Target, 3> kTargets = {
    {{"avx512", HWY_AVX3_DL}, {"avx2", HWY_AVX2}, {"scalar", 0}}};

bool usable(const Target& target, int64_t supported) {
  return target.mask == 0 || (target.mask & supported) != 0;
}

// What the CPU has, whatever was disabled before.
int64_t all_supported() {
  const int64_t now = hwy::SupportedTargets();
  hwy::DisableTargets(0);
  const int64_t all = hwy::SupportedTargets();
  hwy::DisableTargets(~now);
  return all;
}

const Target* best(int64_t supported) {
  for (const Target& target : kTargets)
    if (usable(target, supported)) return &target;
  return &kTargets.back();
}

// What use_target() chose. Remembered: Highway would look at the CPU again at every question, which
// takes microseconds.
const Target*& chosen() {
  static const Target* target = best(hwy::SupportedTargets());
  return target;
}

}  // namespace

std::vector<std::string_view> supported_targets() {
  const int64_t supported = all_supported();
  std::vector<std::string_view> names;
  for (const Target& target : kTargets)
    if (usable(target, supported)) names.push_back(target.name);
  return names;
}

std::string_view active_target() { return chosen()->name; }

Status use_target(std::string_view name) {
  const int64_t supported = all_supported();
  if (name == "auto") {
    hwy::DisableTargets(0);
    chosen() = best(supported);
    return {};
  }
  std::string known;
  for (const Target& target : kTargets) {
    if (!usable(target, supported)) continue;
    if (target.name == name) {
      hwy::DisableTargets(~target.mask);
      chosen() = &target;
      return {};
    }
    known += known.empty() ? "" : ", ";
    known += target.name;
  }
  return fail("target {}: not known or not supported by this CPU, which has: {}, auto", name,
              known);
}

}  // namespace heddle::backend
