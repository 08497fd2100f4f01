// Arithmetic, indexing and slicing with Python's rules. Integers are 64 bits wide: a result beyond
// them is refused.
#include <algorithm>
#include <cmath>

#include "text/template/jinja/interpreter.h"
#include "text/template/python_string.h"

namespace heddle::text::jinja {
namespace {

[[noreturn]] void unsupported(const std::string& op, const Value& a, const Value& b) {
  raise("unsupported operand type(s) for {}: '{}' and '{}'", op, type_name(a), type_name(b));
}

int64_t small_int(const Value& value) {
  if (value.is_big_integer()) raise("arithmetic on integers beyond 64 bits is not supported");
  return value.is_bool() ? int64_t{value.as_bool()} : value.as_int();
}

int64_t floor_div(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

double floor_mod(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  if ((b < 0) != (rest < 0)) rest += b;
  return rest;
}

// Python's floor division of floats: from the exact remainder, not the rounded quotient.
double floor_quotient(double a, double b) {
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

Value power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) raise("0.0 cannot be raised to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  if (base == 0 || base == 1) return Value(exponent == 0 ? int64_t{1} : base);
  if (base == -1) return Value(exponent % 2 ? int64_t{-1} : int64_t{1});
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) raise("integer result beyond 64 bits");
  }
  return Value(result);
}

Value int_arithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    return power(a, b);
  } else {
    if (b == 0) raise("division by zero");
    if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) {
      overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
    } else if (op == "//") {
      result = floor_div(a, b);
    } else {
      result = a - floor_div(a, b) * b;
    }
  }
  if (overflow) raise("integer result beyond 64 bits");
  return Value(result);
}

Value float_arithmetic(const std::string& op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") {
    if (a == 0 && b < 0) raise("0.0 cannot be raised to a negative power");
    if (a < 0 && std::isfinite(a) && std::isfinite(b) && std::floor(b) != b) {
      raise("complex numbers are not supported");
    }
    const double result = std::pow(a, b);
    if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) raise("result too large");
    return Value(result);
  }
  if (b == 0) raise("float division by zero");
  if (op == "/") return Value(a / b);
  return Value(op == "//" ? floor_quotient(a, b) : floor_mod(a, b));
}

Value repeat(Interpreter& in, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.is_string()) {
    const std::string& text = value.as_string();
    int64_t bytes = 0;
    if (__builtin_mul_overflow(static_cast<int64_t>(text.size()), count, &bytes)) bytes = INT64_MAX;
    in.check_size(bytes);
    in.budget().use_bytes(bytes);
    std::string out;
    out.reserve(static_cast<size_t>(bytes));
    if (!text.empty()) {
      for (int64_t i = 0; i < count; ++i) out += text;
    }
    return value.is_markup() ? Value::markup(std::move(out)) : Value(std::move(out));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<int64_t>(value.items().size() * sizeof(Value)), count,
                             &bytes)) {
    bytes = INT64_MAX;
  }
  in.check_size(bytes);
  in.budget().use_bytes(bytes);
  std::vector<Value> items;
  items.reserve(value.items().size() * static_cast<size_t>(count));
  if (!value.items().empty()) {
    for (int64_t i = 0; i < count; ++i) {
      items.insert(items.end(), value.items().begin(), value.items().end());
    }
  }
  return make_sequence(value.as_sequence().kind, std::move(items), in.budget());
}

Value add(Interpreter& in, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    in.check_size(static_cast<int64_t>(a.as_string().size() + b.as_string().size()));
    if (!a.is_markup() && !b.is_markup()) return in.string(a.as_string() + b.as_string());
    const std::string left = a.is_markup() ? a.as_string() : escape_html(a.as_string());
    const std::string right = b.is_markup() ? b.as_string() : escape_html(b.as_string());
    in.budget().use_bytes(static_cast<int64_t>(left.size() + right.size()));
    return Value::markup(left + right);
  }
  if (a.is_list() && b.is_list() && a.as_sequence().kind == b.as_sequence().kind) {
    in.budget().use_bytes(
        static_cast<int64_t>((a.items().size() + b.items().size()) * sizeof(Value)));
    std::vector<Value> items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return make_sequence(a.as_sequence().kind, std::move(items), in.budget());
  }
  if (a.is_string() || b.is_string()) {
    raise("can only concatenate str (not \"{}\") to str", type_name(a.is_string() ? b : a));
  }
  unsupported("+", a, b);
}

Value unary(const std::string& op, const Value& value) {
  if (!value.is_number()) raise("bad operand type for unary {}: '{}'", op, type_name(value));
  const bool negative = op == "neg";
  if (value.is_double()) return Value(negative ? -value.as_double() : value.as_double());
  if (value.is_big_integer()) {
    const std::string& digits = value.big_digits();
    if (!negative) return value;
    return Value::big_integer(digits[0] == '-' ? digits.substr(1) : "-" + digits);
  }
  return int_arithmetic(negative ? "-" : "+", 0, small_int(value));
}

}  // namespace

Value binary(Interpreter& in, const std::string& op, const Value& a, const Value& b) {
  if (a.is_undefined()) raise("{}", a.undefined_message());
  if (op == "neg" || op == "pos") return unary(op, a);
  if (op == "%" && a.is_string()) raise("formatting of text by % is not supported");
  if (b.is_undefined()) raise("{}", b.undefined_message());
  if (a.is_number() && b.is_number()) {
    if (a.is_double() || b.is_double()) return float_arithmetic(op, to_double(a), to_double(b));
    return int_arithmetic(op, small_int(a), small_int(b));
  }
  if (op == "+") return add(in, a, b);
  if (op == "*") {
    const bool left = a.is_string() || a.is_list();
    const Value& count = left ? b : a;
    const Value& value = left ? a : b;
    if ((count.is_int() || count.is_bool()) && (value.is_string() || value.is_list())) {
      return repeat(in, value, small_int(count));
    }
  }
  unsupported(op, a, b);
}

int64_t to_integer(const Value& value, std::string_view what) {
  if (value.is_undefined()) raise("{}", value.undefined_message());
  if (!value.is_int() && !value.is_bool()) {
    raise("{} must be an integer, not {}", what, type_name(value));
  }
  return small_int(value);
}

Value item_at(Interpreter& in, const Value& sequence, int64_t index) {
  if (sequence.is_string()) {
    const std::string& text = sequence.as_string();
    in.budget().use_steps(static_cast<int64_t>(text.size() >> 4));
    const bool ascii = is_ascii(text);
    const int64_t size = ascii ? static_cast<int64_t>(text.size()) : code_point_count(text);
    if (index < 0) index += size;
    if (index < 0 || index >= size) return Value::undefined("string index out of range");
    if (ascii) return in.string(std::string(1, text[static_cast<size_t>(index)]));
    size_t at = 0;
    for (int64_t i = 0; i < index; ++i) next_code_point(text, at);
    size_t end = at;
    next_code_point(text, end);
    return in.string(text.substr(at, end - at));
  }
  const auto& items = sequence.items();
  const auto size = static_cast<int64_t>(items.size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) {
    return Value::undefined(fmt::format("{} object has no element {}", type_name(sequence), index));
  }
  return items[static_cast<size_t>(index)];
}

Value slice(Interpreter& in, const Value& value, const Value& start, const Value& stop,
            const Value& step) {
  if (value.is_undefined()) raise("{}", value.undefined_message());
  const bool is_range = value.is_sequence() && value.as_sequence().kind == SequenceKind::range;
  if (!value.is_string() && !value.is_list() && !is_range) {
    raise("'{}' object cannot be sliced", type_name(value));
  }
  std::vector<size_t> offsets;
  if (value.is_string()) {
    in.budget().use_steps(static_cast<int64_t>(value.as_string().size() >> 2));
    offsets = code_point_offsets(value.as_string());
  }
  const int64_t size = value.is_string() ? static_cast<int64_t>(offsets.size()) - 1
                                         : static_cast<int64_t>(value.items().size());
  const int64_t stride = step.is_none() ? 1 : to_integer(step, "slice step");
  if (stride == 0) raise("slice step cannot be zero");
  const auto bound = [&](const Value& given, int64_t missing) {
    if (given.is_none()) return missing;
    int64_t at = to_integer(given, "slice index");
    if (at < 0) at = at < -size ? -1 : at + size;
    if (at < 0) return stride > 0 ? int64_t{0} : int64_t{-1};
    return std::min(at, stride > 0 ? size : size - 1);
  };
  const int64_t from = bound(start, stride > 0 ? 0 : size - 1);
  const int64_t to = bound(stop, stride > 0 ? size : -1);
  if (value.is_string()) {
    const std::string& text = value.as_string();
    std::string out;
    if (stride == 1) {
      if (from < to) {
        out = text.substr(offsets[static_cast<size_t>(from)],
                          offsets[static_cast<size_t>(to)] - offsets[static_cast<size_t>(from)]);
      }
    } else {
      for (int64_t i = from; stride > 0 ? i < to : i > to;) {
        const size_t at = offsets[static_cast<size_t>(i)];
        out += text.substr(at, offsets[static_cast<size_t>(i) + 1] - at);
        if (__builtin_add_overflow(i, stride, &i)) break;
      }
    }
    in.budget().use_bytes(static_cast<int64_t>(out.size()));
    return value.is_markup() ? Value::markup(std::move(out)) : Value(std::move(out));
  }
  std::vector<Value> items;
  for (int64_t i = from; stride > 0 ? i < to : i > to;) {
    items.push_back(value.items()[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (is_range) {
    const Sequence& range = value.as_sequence();
    return Value::range(range.start + from * range.step, range.start + to * range.step,
                        range.step * stride, std::move(items));
  }
  return make_sequence(value.as_sequence().kind, std::move(items), in.budget());
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace heddle::text::jinja
