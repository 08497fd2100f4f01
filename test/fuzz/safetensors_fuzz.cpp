// Safetensors headers; and the same bytes as a config.json.
#include <cstddef>
#include <cstdint>

#include "model/family.h"
#include "model/files/safetensors.h"
#include "model/model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heddle;
  const auto bytes = std::as_bytes(std::span(data, size));
  model::TensorTable table;
  (void)model::read_safetensors(bytes, "input", 0, table);
  const auto config = model::Config::from_json(
      std::string_view(reinterpret_cast<const char*>(data), size), "input");
  if (!config) return 0;
  table.add("model.embed_tokens.weight", {});
  const auto family = model::find_family(model::Format::hugging_face, *config);
  if (!family) return 0;
  const auto spec = model::make_spec(**family, model::Format::hugging_face, *config, table);
  if (spec && spec->layers.size() <= 64) (void)model::make_design(*spec, {});
  return 0;
}
