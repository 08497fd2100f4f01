// GGUF headers, and what families make of their metadata.
#include <cstddef>
#include <cstdint>

#include "model/family.h"
#include "model/files/gguf.h"
#include "model/model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heddle;
  const auto file = model::GgufFile::parse(std::as_bytes(std::span(data, size)), "input");
  if (!file) return 0;
  for (const auto& [key, value] : file->metadata()) {
    file->integers(key);
    file->numbers(key);
  }
  const model::Config config = model::Config::from_gguf(*file);
  const auto family = model::find_family(model::Format::gguf, config);
  if (!family) return 0;
  const auto spec = model::make_spec(**family, model::Format::gguf, config, file->tensors());
  if (spec && spec->layers.size() <= 64) (void)model::make_design(*spec, {});
  return 0;
}
