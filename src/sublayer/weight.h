#pragma once
// What a sub-layer says about its weights, and where it gets them from.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "ops/elementwise/rope.h"
#include "ops/matmul/matmul.h"
#include "tensor/vector.h"

namespace heddle::sublayer {

// What a weight's values are drawn from where there is no checkpoint: in tests, in presets, before
// training. Not given: normal with the deviation of unit gain, 1 / sqrt(last dimension).
struct Init {
  enum class Law : uint8_t { unit_gain, normal, uniform };
  Law law = Law::unit_gain;
  double a = 0;  // mean or least value
  double b = 0;  // deviation or greatest value

  static constexpr Init normal(double mean, double deviation) {
    return {Law::normal, mean, deviation};
  }
  static constexpr Init uniform(double least, double greatest) {
    return {Law::uniform, least, greatest};
  }
};
inline constexpr Init kNormInit = Init::normal(1, 0.1);
inline constexpr Init kBiasInit = Init::normal(0, 0.3);

// Which dimension is divided when several devices share a sub-layer, each with some of its heads,
// channels or inner columns: an output of cols is a partial sum. Of stacked parts (q | k | v) each
// part is divided.
enum class Shard : uint8_t { none, rows, cols };

// A weight under the sub-layer's own name ("q_proj"); families map it to the names of files.
struct WeightSpec {
  std::string name;
  std::vector<int64_t>
      shape;           // [out, in] of a matrix, [n] of a vector, [channels, taps] of a convolution
  bool matrix = true;  // false: read as float32 values
  Init init = {};
  Shard shard = Shard::none;

  int64_t elements() const;
  double deviation() const;  // of what init draws
};

// Values of a weight, [elements].
std::vector<float> draw(const WeightSpec& weight, Rng& rng);

// Where a sub-layer's weights come from. Shapes have been checked against the WeightSpec.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual Result<ops::MatrixSource> matrix(std::string_view name) = 0;
  virtual Result<std::vector<float>> values(std::string_view name) = 0;
  // The same as kernels read them, in `memory`.
  Result<tensor::Vector> vector(std::string_view name, backend::WeightMemory& memory);
  // Tables of a rotation. A model's layers share equal ones.
  virtual Result<std::shared_ptr<const ops::Rope>> rope(const ops::RopeSpec& spec);
};

}  // namespace heddle::sublayer
