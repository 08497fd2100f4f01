#include "mixers/mixer.h"

#include "base/check.h"

namespace heddle::mixers {

void Mixer::fold(backend::Context&, std::span<const state::PartView> parts) const {
  for (const state::PartView& part : parts)
    HEDDLE_CHECK(part.next_summary == nullptr, "mixer does not fold");
}

Result<std::shared_ptr<const ops::Rope>> WeightSource::rope(const ops::RopeSpec& spec) {
  HEDDLE_TRY(ops::Rope tables, ops::make_rope(spec));
  return std::make_shared<const ops::Rope>(std::move(tables));
}

Result<const MixerKind*> find_mixer(std::string_view name) {
  std::string known;
  for (const MixerKind* kind : mixer_table()) {
    if (kind->name == name) return kind;
    known += known.empty() ? "" : ", ";
    known += kind->name;
  }
  return fail("unknown mixer {}: expected one of {}", name, known);
}

}  // namespace heddle::mixers
