#pragma once
// HEDDLE_CHECK: a violated invariant is a bug; it aborts with the place and the values. Input from
// outside never reaches a CHECK: parsers return Result<T>.
#include <fmt/format.h>

#include <string>

namespace heddle::base {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& detail);
}  // namespace heddle::base

// HEDDLE_CHECK(a == b) or HEDDLE_CHECK(a == b, "a {} b {}", a, b). Always on.
#define HEDDLE_CHECK(condition, ...)                                                               \
  do {                                                                                             \
    if (!(condition)) [[unlikely]]                                                                 \
      ::heddle::base::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (0)
