#include "sublayer/params.h"

namespace heddle::sublayer {

template <class T>
const T* Params::find(std::string_view name) const {
  asked_.emplace(name);
  const auto it = values_.find(name);
  return it == values_.end() ? nullptr : std::get_if<T>(&it->second);
}

bool Params::has(std::string_view name) const {
  asked_.emplace(name);
  return values_.contains(name);
}

Params Params::unasked() const {
  Params result;
  result.values_ = values_;
  return result;
}

Status Params::check_all_asked(std::string_view kind) const {
  for (const auto& [name, value] : values_) {
    if (asked_.contains(name)) continue;
    std::string known;
    for (const std::string& other : asked_) known += (known.empty() ? "" : ", ") + other;
    return fail("{}: unknown parameter {}; it knows {}", kind, name, known);
  }
  return {};
}

Result<int64_t> Params::integer(std::string_view name) const {
  if (const auto* value = find<int64_t>(name)) return *value;
  return fail("parameter {}: an integer is expected", name);
}

Result<double> Params::number(std::string_view name) const {
  if (const auto* value = find<double>(name)) return *value;
  if (const auto* value = find<int64_t>(name)) return static_cast<double>(*value);
  return fail("parameter {}: a number is expected", name);
}

int64_t Params::integer_or(std::string_view name, int64_t fallback) const {
  const auto* value = find<int64_t>(name);
  return value == nullptr ? fallback : *value;
}

double Params::number_or(std::string_view name, double fallback) const {
  const auto value = number(name);
  return value ? *value : fallback;
}

bool Params::flag_or(std::string_view name, bool fallback) const {
  const auto* value = find<bool>(name);
  return value == nullptr ? fallback : *value;
}

std::string Params::text_or(std::string_view name, std::string_view fallback) const {
  const auto* value = find<std::string>(name);
  return std::string(value == nullptr ? fallback : *value);
}

std::string Params::text() const {
  std::string text;
  for (const auto& [name, value] : values_) {
    text += text.empty() ? "(" : ", ";
    text += name + "=";
    std::visit([&](const auto& v) { text += fmt::format("{}", v); }, value);
  }
  return text + ")";
}

}  // namespace heddle::sublayer
