#pragma once
// Python's semantics of Values, shared by the template interpreter and the JSON writer. Internal to
// src/text.
//
// A template comes from a model file and may be hostile, so everything here draws on a Budget and
// stops with a PythonError when it is spent. PythonError never leaves src/text: chat_template.cpp
// turns it into a Result.
#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/template/value.h"

namespace heddle::text {

struct PythonError {
  std::string message;
  int line = 0;  // of the template; 0 until a statement or expression that knows it is passed
};

template <class... Args>
[[noreturn]] void raise(fmt::format_string<Args...> format, Args&&... args) {
  throw PythonError{fmt::format(format, std::forward<Args>(args)...)};
}

struct Budget {
  int64_t steps = 0;  // left
  int64_t bytes = 0;  // left, of everything ever allocated

  void use_steps(int64_t count) {
    steps -= count;
    if (steps < 0) raise("template takes too many steps");
  }
  void use_bytes(int64_t count) {
    bytes -= count;
    if (bytes < 0) raise("template uses too much memory");
    use_steps(count >> 6);
  }
};

// Containers nest at most this deep, so that walks over them need no explicit stack.
inline constexpr int kMaxValueDepth = 200;

std::string_view type_name(const Value& value);  // "str", "dict", ...
bool truthy(const Value& value);
bool equal(const Value& a, const Value& b, Budget& budget);
// Less than zero, zero, more than zero; raises on types without an order among them. NaN compares
// as unordered: `unordered` is set.
int compare(const Value& a, const Value& b, Budget& budget, bool* unordered = nullptr);
std::string str(const Value& value, Budget& budget);   // str(value): what {{ value }} prints
std::string repr(const Value& value, Budget& budget);  // repr(value)
std::string float_repr(double value);
double to_double(const Value& number);  // of any number

Value make_list(std::vector<Value> items, Budget& budget);
Value make_sequence(SequenceKind kind, std::vector<Value> items, Budget& budget);
Value make_map(std::vector<std::pair<Value, Value>> entries, Budget& budget);
Value make_string(std::string text, Budget& budget);

}  // namespace heddle::text
