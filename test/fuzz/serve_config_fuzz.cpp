// Configuration files of `heddle serve`, TOML and JSON: any bytes must end in options or an error,
// and what was taken can be printed.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "cli/serve_options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heddle::cli;
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto values = parse_config(text, "file");
  if (!values) return 0;
  const auto resolved = resolve_options({{"file", *values}});
  if (!resolved) return 0;
  const std::string again = config_text(*resolved);
  if (again.empty()) std::abort();
  return 0;
}
