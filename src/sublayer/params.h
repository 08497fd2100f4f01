#pragma once
// The numbers that a model family hands to a sub-layer: a small ordered map from name to int,
// double, bool or string. It remembers which names were asked for: a misspelt one is an error.
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"

namespace heddle::sublayer {

class Params {
 public:
  using Value = std::variant<int64_t, double, bool, std::string>;
  Params() = default;
  Params(std::initializer_list<std::pair<const std::string, Value>> values) : values_(values) {}
  Params& set(const std::string& name, Value value) {
    values_[name] = std::move(value);
    return *this;
  }
  // Required values: an error names the parameter. A double accepts an int.
  Result<int64_t> integer(std::string_view name) const;
  Result<double> number(std::string_view name) const;
  // Optional ones.
  int64_t integer_or(std::string_view name, int64_t fallback) const;
  double number_or(std::string_view name, double fallback) const;
  bool flag_or(std::string_view name, bool fallback) const;
  std::string text_or(std::string_view name, std::string_view fallback) const;
  bool has(std::string_view name) const;
  const std::map<std::string, Value, std::less<>>& values() const { return values_; }
  // The same values, of which nobody has asked for any.
  Params unasked() const;
  // Every name was asked for by one of the functions above; else an error that lists those that
  // were.
  Status check_all_asked(std::string_view kind) const;
  std::string text() const;  // "(d_model=64, taps=4)": every parameter, in order

 private:
  template <class T>
  const T* find(std::string_view name) const;
  std::map<std::string, Value, std::less<>> values_;
  mutable std::set<std::string, std::less<>> asked_;
};

}  // namespace heddle::sublayer
