#include "sublayer/weight.h"

#include <cmath>

namespace heddle::sublayer {

int64_t WeightSpec::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

double WeightSpec::deviation() const {
  switch (init.law) {
    case Init::Law::unit_gain:
      break;
    case Init::Law::normal:
      return init.b;
    case Init::Law::uniform:
      return (init.b - init.a) / std::sqrt(12.0);
  }
  return 1 / std::sqrt(static_cast<double>(shape.back()));
}

std::vector<float> draw(const WeightSpec& weight, Rng& rng) {
  const Init& init = weight.init;
  const double mean = init.law == Init::Law::normal ? init.a : 0;
  const double deviation = weight.deviation();
  std::vector<float> values(static_cast<size_t>(weight.elements()));
  for (float& value : values)
    value =
        static_cast<float>(init.law == Init::Law::uniform ? init.a + (init.b - init.a) * rng.unit()
                                                          : mean + deviation * rng.normal());
  return values;
}

Result<tensor::Vector> WeightSource::vector(std::string_view name, backend::WeightMemory& memory) {
  HEDDLE_TRY(const std::vector<float> read, values(name));
  return tensor::Vector::of(read, memory);
}

Result<std::shared_ptr<const ops::Rope>> WeightSource::rope(const ops::RopeSpec& spec) {
  HEDDLE_TRY(ops::Rope tables, ops::make_rope(spec));
  return std::make_shared<const ops::Rope>(std::move(tables));
}

}  // namespace heddle::sublayer
