// Configuration files of `heddle serve`, TOML and JSON.
#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

#include "cli/serve_options.h"
#include "text/template/value.h"

namespace heddle::cli {
namespace {

using Values = ServeOption::Values;

Status set_key(OptionValues& values, const std::string& key, Values given,
               const std::string& file) {
  std::vector<std::string> keys;
  for (const ServeOption& option : serve_option_table()) keys.push_back(option.key());
  const auto found = std::find(keys.begin(), keys.end(), key);
  if (found == keys.end()) {
    const std::string near = nearest(key, keys);
    return fail("{}: unknown key '{}'{}", file, key,
                near.empty() ? std::string() : fmt::format(", did you mean '{}'?", near));
  }
  const auto index = static_cast<size_t>(found - keys.begin());
  const ServeOption& option = serve_option_table()[index];
  if (values[index]) return fail("{}: '{}' is there twice", file, key);
  if (option.kind != ServeOption::Kind::list && given.size() != 1)
    return fail("{}: {}: a single value is expected, not {}", file, key, given.size());
  values[index] = std::move(given);
  return {};
}

// A number as it would be written.
Result<std::string> scalar(const text::Value& value) {
  if (value.is_string()) return value.as_string();
  if (value.is_number()) return text::to_json(value);
  return fail("a text, a number, true or false is expected");
}

Result<OptionValues> parse_json_config(const std::string& text, const std::string& name) {
  const auto body = text::parse_json(text);
  if (!body) return fail("{}: {}", name, body.error().message);
  OptionValues values(serve_option_table().size());
  for (const auto& [key, value] : body->as_map().entries) {
    Values given;
    for (const auto& item : value.is_list() ? value.items() : std::vector<text::Value>{value}) {
      auto one = scalar(item);
      if (!one) return fail("{}: {}: {}", name, key.as_string(), one.error().message);
      given.push_back(std::move(*one));
    }
    HEDDLE_TRY_STATUS(set_key(values, key.as_string(), std::move(given), name));
  }
  return values;
}

Result<std::string> scalar(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* whole = node.as_integer()) return std::to_string(whole->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto* toggle = node.as_boolean()) return std::string(toggle->get() ? "true" : "false");
  return fail("a text, a number, true or false is expected");
}

Status read_toml_table(OptionValues& values, const toml::table& table, const std::string& prefix,
                       const std::string& name) {
  for (const auto& [last, node] : table) {
    const std::string key = prefix + std::string(last.str());
    if (const toml::table* inner = node.as_table()) {
      HEDDLE_TRY_STATUS(read_toml_table(values, *inner, key + ".", name));
      continue;
    }
    Values given;
    const auto add = [&](const toml::node& item) -> Status {
      auto one = scalar(item);
      if (!one) return fail("{}: {}: {}", name, key, one.error().message);
      given.push_back(std::move(*one));
      return {};
    };
    if (const toml::array* list = node.as_array()) {
      for (const toml::node& item : *list) HEDDLE_TRY_STATUS(add(item));
    } else {
      HEDDLE_TRY_STATUS(add(node));
    }
    HEDDLE_TRY_STATUS(set_key(values, key, std::move(given), name));
  }
  return {};
}

Result<OptionValues> parse_toml_config(const std::string& text, const std::string& name) {
  OptionValues values(serve_option_table().size());
  try {
    const toml::table table = toml::parse(text);
    HEDDLE_TRY_STATUS(read_toml_table(values, table, "", name));
  } catch (const toml::parse_error& error) {
    return fail("{}:{}: {}", name, error.source().begin.line, error.description());
  }
  return values;
}

}  // namespace

Result<OptionValues> parse_config(const std::string& text, const std::string& name) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool json = first != std::string::npos && text[first] == '{';
  return json ? parse_json_config(text, name) : parse_toml_config(text, name);
}

}  // namespace heddle::cli
