#include "sublayer/sublayer.h"

namespace heddle::sublayer {

Result<std::shared_ptr<const ops::Rope>> WeightSource::rope(const ops::RopeSpec& spec) {
  HEDDLE_TRY(ops::Rope tables, ops::make_rope(spec));
  return std::make_shared<const ops::Rope>(std::move(tables));
}

}  // namespace heddle::sublayer
