#pragma once
// Memory that runs out in the depth of a computation travels as std::bad_alloc, as containers throw
// it: the one exception that crosses folders. It is caught where something can be given up: a
// command (cli/main.cpp), a step (engine/), a request (server/http/connection.cpp).
#include <new>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "base/result.h"

namespace heddle {

// With words, where somebody knows what was wanted.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(Error error) : error_(std::move(error)) {}
  const char* what() const noexcept override { return error_.message.c_str(); }

 private:
  Error error_;
};

// What to tell. `doing` stands in where nobody knows what was wanted: "reading the tokenizer".
Error memory_error(const std::bad_alloc& error, std::string_view doing);

// What fn returns, a Result, or an error where its memory ran out.
template <class F>
auto within_memory(std::string_view doing, F&& fn) -> decltype(fn()) {
  try {
    return fn();
  } catch (const std::bad_alloc& error) {
    return tl::unexpected(memory_error(error, doing));
  }
}

// A thread that runs fn. Throws OutOfMemory where the system refuses one.
OutOfMemory thread_refused(const char* what, const std::exception& reason);
template <class F>
std::thread start_thread(const char* what, F&& fn) {
  try {
    return std::thread(std::forward<F>(fn));
  } catch (const std::system_error& error) {
    throw thread_refused(what, error);
  }
}

}  // namespace heddle
