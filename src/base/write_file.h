#pragma once
// A file written as a whole: a reader sees the old one or the new one, and a crash leaves one of
// them.
#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace heddle {

// Written beside `path` (readable by its owner only), flushed, and renamed. `what` names the
// content in messages: "a snapshot".
Status write_file(const std::string& path, std::span<const std::byte> bytes, std::string_view what);

}  // namespace heddle
