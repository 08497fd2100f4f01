#include "base/out_of_memory.h"

namespace heddle {

Error memory_error(const std::bad_alloc& error, std::string_view doing) {
  const auto* known = dynamic_cast<const OutOfMemory*>(&error);
  if (known != nullptr) return {known->what()};
  return {fmt::format("out of memory while {}", doing)};
}

OutOfMemory thread_refused(const char* what, const std::exception& reason) {
  return OutOfMemory(
      {fmt::format("out of memory: the system refused a thread for {} ({})", what, reason.what())});
}

}  // namespace heddle
