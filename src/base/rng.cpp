#include "base/rng.h"

#include <cmath>
#include <numbers>

namespace heddle {

float Rng::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - unit()));
  return static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * unit()));
}

}  // namespace heddle
