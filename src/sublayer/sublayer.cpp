#include "sublayer/sublayer.h"

#include "base/check.h"

namespace heddle::sublayer {

void SubLayer::fold(backend::Context&, std::span<const state::PartView> parts) const {
  for (const state::PartView& part : parts)
    HEDDLE_CHECK(part.next_summary() == nullptr, "this sub-layer does not fold");
}

Result<std::shared_ptr<const ops::Rope>> WeightSource::rope(const ops::RopeSpec& spec) {
  HEDDLE_TRY(ops::Rope tables, ops::make_rope(spec));
  return std::make_shared<const ops::Rope>(std::move(tables));
}

}  // namespace heddle::sublayer
