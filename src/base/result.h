#pragma once
// Result<T>: how an expected failure (file, request, memory, network) travels. The message says
// what failed, where, and what was expected. A bug is not an expected failure: see check.h.
#include <fmt/format.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace heddle {

struct Error {
  std::string message;
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

// fail("{}: expected magic {:#x}, found {:#x}", path, a, b) converts to any Result<T>.
template <class... Args>
tl::unexpected<Error> fail(fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{fmt::format(format, std::forward<Args>(args)...)});
}

}  // namespace heddle

#define HEDDLE_CONCAT_INNER(a, b) a##b
#define HEDDLE_CONCAT(a, b) HEDDLE_CONCAT_INNER(a, b)

// HEDDLE_TRY(auto x, f()): x = value of f(), or return f()'s error.
#define HEDDLE_TRY(decl, expr) HEDDLE_TRY_IMPL(HEDDLE_CONCAT(heddle_try_, __LINE__), decl, expr)
#define HEDDLE_TRY_IMPL(tmp, decl, expr)                                    \
  auto tmp = (expr);                                                        \
  if (!tmp) return tl::unexpected<::heddle::Error>(std::move(tmp).error()); \
  decl = std::move(*tmp)

// HEDDLE_TRY_STATUS(f()): return f()'s error if it failed.
#define HEDDLE_TRY_STATUS(expr)                                                                   \
  do {                                                                                            \
    auto heddle_status = (expr);                                                                  \
    if (!heddle_status) return tl::unexpected<::heddle::Error>(std::move(heddle_status).error()); \
  } while (0)
