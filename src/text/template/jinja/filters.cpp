// Filters of single values: text, numbers, JSON. Those of sequences are in
// sequence_filters.cpp.
#include "text/template/jinja/filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/template/jinja/filter_table.h"
#include "text/template/jinja/interpreter.h"
#include "text/template/python_string.h"

namespace heddle::text::jinja {
namespace {

// soft_str: strings stay as they are, markup included; anything else is printed.
Value soft(Interpreter& in, const Value& value) {
  return value.is_string() ? value : in.string(in.text_of(value));
}

Value like(Interpreter& in, const Value& source, std::string text) {
  in.budget().use_bytes(static_cast<int64_t>(text.size()) + 48);
  return source.is_markup() ? Value::markup(std::move(text)) : Value(std::move(text));
}

// The filter that calls the string method of its name.
template <std::string (*Convert)(std::string_view)>
Value convert(Interpreter& in, const Value& input, const Arguments& arguments) {
  match(arguments, "filter", {});
  const Value text = soft(in, input);
  in.budget().use_steps(static_cast<int64_t>(text.as_string().size() >> 2));
  return like(in, text, Convert(text.as_string()));
}

Value trim(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "trim", {"chars"});
  const Value text = soft(in, input);
  const bool any_space = !given[0] || given[0]->is_none();
  if (!any_space && !given[0]->is_string()) raise("strip arg must be None or str");
  return like(in, text,
              std::string(strip(text.as_string(), true, true,
                                any_space ? nullptr : &given[0]->as_string())));
}

Value replace(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "replace", {"old", "new", "count"}, 2);
  int64_t count = -1;
  if (given[2] && !given[2]->is_none()) count = to_integer(*given[2], "count");
  return in.string(
      replace_text(in, in.text_of(input), in.text_of(*given[0]), in.text_of(*given[1]), count));
}

Value indent(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "indent", {"width", "first", "blank"});
  std::string margin = "    ";
  if (given[0]) {
    if (given[0]->is_string()) {
      margin = given[0]->as_string();
    } else {
      const int64_t width = std::max<int64_t>(to_integer(*given[0], "indent width"), 0);
      in.check_size(width);
      margin = std::string(static_cast<size_t>(width), ' ');
    }
  }
  if (input.is_undefined()) raise("{}", input.undefined_message());
  if (!input.is_string()) raise("indent: expected str, got {}", type_name(input));
  const bool first = given[1] && truthy(*given[1]);
  const bool blank = given[2] && truthy(*given[2]);
  const std::string text = input.as_string() + "\n";
  std::string out = first ? margin : "";
  bool is_first = true;
  for (const std::string_view line : split_lines(text)) {
    if (!is_first) {
      out += '\n';
      if (blank || !line.empty()) out += margin;
    }
    is_first = false;
    out += line;
    in.check_size(static_cast<int64_t>(out.size()));
  }
  return like(in, input, std::move(out));
}

Value to_string(Interpreter& in, const Value& input, const Arguments& arguments) {
  match(arguments, "string", {});
  return soft(in, input);
}

Value safe(Interpreter& in, const Value& input, const Arguments& arguments) {
  match(arguments, "safe", {});
  return Value::markup(in.text_of(input));
}

Value default_value(Interpreter&, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "default", {"default_value", "boolean"});
  const bool also_false = given[1] && truthy(*given[1]);
  if (!input.is_undefined() && !(also_false && !truthy(input))) return input;
  return given[0] ? *given[0] : Value("");
}

// Text of a Python number: blanks around it and single underscores between digits are allowed.
std::optional<std::string> plain_digits(std::string_view text) {
  text = strip(text, true, true);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() ||
               !isalnum(static_cast<unsigned char>(text[i - 1])) ||
               !isalnum(static_cast<unsigned char>(text[i + 1]))) {
      return std::nullopt;
    }
  }
  return out;
}

std::optional<Value> parse_int(const std::string& text, int64_t base) {
  auto digits = plain_digits(text);
  if (!digits || (base != 0 && (base < 2 || base > 36))) return std::nullopt;
  bool negative = false;
  if (digits->starts_with('-') || digits->starts_with('+')) {
    negative = digits->front() == '-';
    digits->erase(0, 1);
  }
  if (digits->size() > 1 && digits->front() == '0') {
    const char mark = static_cast<char>((*digits)[1] | 0x20);
    const int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked && (base == 0 || base == marked)) {
      digits->erase(0, 2);
      base = marked;
    }
  }
  if (base == 0) base = 10;
  if (digits->empty() || !isalnum(static_cast<unsigned char>(digits->front()))) return std::nullopt;
  int64_t value = 0;
  const auto end = std::from_chars(digits->data(), digits->data() + digits->size(), value,
                                   static_cast<int>(base));
  if (end.ptr != digits->data() + digits->size()) return std::nullopt;
  if (end.ec == std::errc()) return Value(negative ? -value : value);
  if (base != 10 || digits->size() > 4300) raise("integer beyond 64 bits");
  return Value::big_integer((negative ? "-" : "") + *digits);
}

std::optional<double> parse_float(const std::string& text) {
  const auto digits = plain_digits(text);
  if (!digits || digits->empty()) return std::nullopt;
  std::string_view body(*digits);
  if (body[0] == '+' || body[0] == '-') body.remove_prefix(1);
  const std::string lower = to_lower(body);
  if (lower != "inf" && lower != "infinity" && lower != "nan" &&
      lower.find_first_not_of("0123456789.e+-") != std::string::npos) {
    return std::nullopt;
  }
  char* end = nullptr;
  const double value = std::strtod(digits->c_str(), &end);
  if (end != digits->c_str() + digits->size()) return std::nullopt;
  return value;
}

std::optional<Value> truncate(double value) {
  if (std::isnan(value) || !(std::abs(value) < 0x1p63)) return std::nullopt;
  return Value(static_cast<int64_t>(value));
}

Value to_int(Interpreter&, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "int", {"default", "base"});
  const Value missing = given[0] ? *given[0] : Value(0);
  const int64_t base = given[1] ? to_integer(*given[1], "base") : 10;
  if (input.is_undefined()) raise("{}", input.undefined_message());
  if (input.is_string()) {
    if (const auto value = parse_int(input.as_string(), base)) return *value;
    const auto number = parse_float(input.as_string());
    return number ? truncate(*number).value_or(missing) : missing;
  }
  if (input.is_double()) {
    if (std::isinf(input.as_double())) raise("cannot convert float infinity to integer");
    if (std::isnan(input.as_double())) return missing;
    const auto value = truncate(input.as_double());
    if (!value) raise("integer beyond 64 bits");
    return *value;
  }
  if (input.is_bool()) return Value(input.as_bool() ? 1 : 0);
  return input.is_number() ? input : missing;
}

Value to_json_filter(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given =
      match(arguments, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonOptions options;
  options.ensure_ascii = given[0] && truthy(*given[0]);
  if (given[1] && !given[1]->is_none()) {
    options.pretty = true;
    if (given[1]->is_string()) {
      options.indent = given[1]->as_string();
    } else {
      const int64_t width = std::max<int64_t>(to_integer(*given[1], "indent"), 0);
      in.check_size(width);
      options.indent = std::string(static_cast<size_t>(width), ' ');
    }
  }
  if (given[2] && !given[2]->is_none()) {
    const auto pair = in.iterate(*given[2]);
    if (pair->items.size() != 2 || !pair->items[0].is_string() || !pair->items[1].is_string()) {
      raise("tojson: separators must be two strings");
    }
    options.item_separator = pair->items[0].as_string();
    options.key_separator = pair->items[1].as_string();
  }
  options.sort_keys = given[3] && truthy(*given[3]);
  options.max_bytes = std::min<int64_t>(options.max_bytes, in.budget().bytes);
  auto text = to_json(input, options);
  if (!text) raise("{}", text.error().message);
  in.check_size(static_cast<int64_t>(text->size()));
  return in.string(std::move(*text));
}

}  // namespace

std::span<const NamedFilter> value_filters() {
  static constexpr NamedFilter kFilters[] = {
      {"capitalize", convert<to_capital>},
      {"d", default_value},
      {"default", default_value},
      {"indent", indent},
      {"int", to_int},
      {"lower", convert<to_lower>},
      {"replace", replace},
      {"safe", safe},
      {"string", to_string},
      {"tojson", to_json_filter},
      {"trim", trim},
      {"upper", convert<to_upper>},
  };
  return kFilters;
}

Filter find_filter(std::string_view name) {
  for (const auto table : {value_filters(), sequence_filters()}) {
    for (const NamedFilter& entry : table) {
      if (entry.name == name) return entry.filter;
    }
  }
  return nullptr;
}

}  // namespace heddle::text::jinja
