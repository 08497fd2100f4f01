#include "model/files/config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "model/files/gguf.h"

namespace heddle::model {
namespace {

using Json = nlohmann::json;
constexpr int kMaxDepth = 6;        // of config.json that is looked at
constexpr size_t kMaxList = 65536;  // longer lists are data, not configuration

std::optional<Config::Scalar> scalar_of(const Json& json) {
  if (json.is_boolean()) return Config::Scalar(json.get<bool>());
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    return Config::Scalar(json.get<double>());
  if (json.is_number_integer()) return Config::Scalar(json.get<int64_t>());
  if (json.is_number_float()) return Config::Scalar(json.get<double>());
  if (json.is_string()) return Config::Scalar(json.get<std::string>());
  return std::nullopt;
}

// Calls put(key, json) for every scalar and list; nested objects join their names with dots.
template <class Put>
void flatten(const Json& object, const std::string& prefix, int depth, const Put& put) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      if (depth < kMaxDepth) flatten(value, prefix + key + ".", depth + 1, put);
    } else {
      put(prefix + key, value);
    }
  }
}

std::string scalar_text(const Config::Scalar& value) {
  return std::visit(
      [](const auto& v) {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::string>)
          return fmt::format("\"{}\"", v);
        else
          return fmt::format("{}", v);
      },
      value);
}

}  // namespace

Result<Config> Config::from_json(std::string_view text, const std::string& name) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return fail("{}: not a JSON object", name);
  Config config;
  config.name_ = name;
  const auto put = [&](const std::string& key, const Json& value) {
    if (value.is_array()) {
      List list;
      if (value.size() > kMaxList) return;
      for (const Json& item : value) {
        const auto scalar = scalar_of(item);
        if (!scalar) return;
        list.push_back(*scalar);
      }
      config.values_[key] = std::move(list);
    } else if (const auto scalar = scalar_of(value)) {
      config.values_[key] = *scalar;
    }
  };
  flatten(json, "", 0, put);
  if (json.contains("text_config") && json["text_config"].is_object()) {
    const Json& inner = json["text_config"];
    flatten(inner, "", 0, [&](const std::string& key, const Json& value) {
      // The wrapper's own architectures decide the family.
      if (key != "architectures" || !json.contains("architectures")) put(key, value);
    });
  }
  return config;
}

Config Config::from_gguf(const GgufFile& file) {
  Config config;
  config.name_ = file.path();
  const std::string prefix = std::string(file.text_or("general.architecture", "")) + ".";
  for (const auto& [key, value] : file.metadata()) {
    const bool own = key.compare(0, prefix.size(), prefix) == 0;
    if (!own && key.compare(0, 8, "general.") != 0) continue;
    const std::string name = own ? key.substr(prefix.size()) : key;
    if (const auto* array = std::get_if<GgufArray>(&value)) {
      if (array->count > static_cast<int64_t>(kMaxList)) continue;
      List list;
      for (const std::string_view item : array->strings) list.emplace_back(std::string(item));
      for (const int64_t item : file.integers(key)) list.emplace_back(item);
      if (list.empty()) {
        for (const float item : file.numbers(key)) list.emplace_back(static_cast<double>(item));
      }
      config.values_[name] = std::move(list);
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      config.values_[name] = Scalar(*flag);
    } else if (const auto* integer = std::get_if<int64_t>(&value)) {
      config.values_[name] = Scalar(*integer);
    } else if (const auto* wide = std::get_if<uint64_t>(&value)) {
      config.values_[name] = Scalar(static_cast<double>(*wide));
    } else if (const auto* number = std::get_if<double>(&value)) {
      config.values_[name] = Scalar(*number);
    } else {
      config.values_[name] = Scalar(std::string(std::get<std::string_view>(value)));
    }
  }
  return config;
}

const Config::Scalar* Config::scalar(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : std::get_if<Scalar>(&it->second);
}

Result<int64_t> Config::size(std::string_view key) const {
  if (!has(key)) return fail("{}: {} is missing", name_, key);
  return size_or(key, 0);
}

Result<int64_t> Config::size_or(std::string_view key, int64_t fallback) const {
  if (!has(key)) return fallback;
  HEDDLE_TRY(const int64_t value, integer_or(key, 0));
  if (value < 1 || value > INT32_MAX)
    return fail("{}: {} is {}, expected 1 to {}", name_, key, value, INT32_MAX);
  return value;
}

Result<int64_t> Config::integer_or(std::string_view key, int64_t fallback) const {
  if (!has(key)) return fallback;
  const Scalar* value = scalar(key);
  if (value != nullptr) {
    if (const auto* integer = std::get_if<int64_t>(value)) return *integer;
    const auto* number = std::get_if<double>(value);  // some writers say 1e6 or 512.0
    if (number != nullptr && std::abs(*number) < 0x1p53 && *number == std::floor(*number))
      return static_cast<int64_t>(*number);
  }
  return fail("{}: {} is not an integer", name_, key);
}

Result<double> Config::number(std::string_view key) const {
  if (!has(key)) return fail("{}: {} is missing", name_, key);
  return number_or(key, 0);
}

Result<double> Config::number_or(std::string_view key, double fallback) const {
  if (!has(key)) return fallback;
  const Scalar* value = scalar(key);
  if (value != nullptr) {
    if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
    const auto* number = std::get_if<double>(value);
    if (number != nullptr && std::isfinite(*number)) return *number;
  }
  return fail("{}: {} is not a finite number", name_, key);
}

Result<bool> Config::flag_or(std::string_view key, bool fallback) const {
  if (!has(key)) return fallback;
  const Scalar* value = scalar(key);
  const auto* flag = value == nullptr ? nullptr : std::get_if<bool>(value);
  if (flag == nullptr) return fail("{}: {} is neither true nor false", name_, key);
  return *flag;
}

Result<std::string> Config::text(std::string_view key) const {
  if (!has(key)) return fail("{}: {} is missing", name_, key);
  return text_or(key, "");
}

Result<std::string> Config::text_or(std::string_view key, std::string_view fallback) const {
  if (!has(key)) return std::string(fallback);
  const Scalar* value = scalar(key);
  const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(value);
  if (text == nullptr) return fail("{}: {} is not a string", name_, key);
  return *text;
}

Result<std::vector<int64_t>> Config::integers(std::string_view key) const {
  std::vector<int64_t> result;
  if (!has(key)) return result;
  if (scalar(key) != nullptr) {
    HEDDLE_TRY(const int64_t value, integer_or(key, 0));
    result.push_back(value);
    return result;
  }
  for (const Scalar& item : std::get<List>(values_.find(key)->second)) {
    if (const auto* integer = std::get_if<int64_t>(&item))
      result.push_back(*integer);
    else if (const auto* flag = std::get_if<bool>(&item))
      result.push_back(*flag ? 1 : 0);
    else
      return fail("{}: {} is not a list of integers", name_, key);
  }
  return result;
}

Result<std::vector<std::string>> Config::texts(std::string_view key) const {
  std::vector<std::string> result;
  if (!has(key)) return result;
  if (scalar(key) != nullptr) {
    HEDDLE_TRY(std::string value, text(key));
    result.push_back(std::move(value));
    return result;
  }
  for (const Scalar& item : std::get<List>(values_.find(key)->second)) {
    const auto* text = std::get_if<std::string>(&item);
    if (text == nullptr) return fail("{}: {} is not a list of strings", name_, key);
    result.push_back(*text);
  }
  return result;
}

std::string Config::canonical() const {
  std::string result;
  for (const auto& [key, value] : values_) {
    result += key + "=";
    if (const auto* one = std::get_if<Scalar>(&value)) {
      result += scalar_text(*one);
    } else {
      for (const Scalar& item : std::get<List>(value)) result += scalar_text(item) + ",";
    }
    result += "\n";
  }
  return result;
}

}  // namespace heddle::model
