#include "sublayer/params.h"

namespace heddle::sublayer {
namespace {

template <class T>
const T* find(const Params& params, std::string_view name) {
  const auto it = params.values().find(name);
  return it == params.values().end() ? nullptr : std::get_if<T>(&it->second);
}

}  // namespace

Result<int64_t> Params::integer(std::string_view name) const {
  if (const auto* value = find<int64_t>(*this, name)) return *value;
  return fail("parameter {}: an integer is expected", name);
}

Result<double> Params::number(std::string_view name) const {
  if (const auto* value = find<double>(*this, name)) return *value;
  if (const auto* value = find<int64_t>(*this, name)) return static_cast<double>(*value);
  return fail("parameter {}: a number is expected", name);
}

int64_t Params::integer_or(std::string_view name, int64_t fallback) const {
  const auto* value = find<int64_t>(*this, name);
  return value == nullptr ? fallback : *value;
}

double Params::number_or(std::string_view name, double fallback) const {
  const auto value = number(name);
  return value ? *value : fallback;
}

bool Params::flag_or(std::string_view name, bool fallback) const {
  const auto* value = find<bool>(*this, name);
  return value == nullptr ? fallback : *value;
}

std::string Params::text_or(std::string_view name, std::string_view fallback) const {
  const auto* value = find<std::string>(*this, name);
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
