#include "text/template/value_python.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/template/python_string.h"

namespace heddle::text {
namespace {

int sign_of(double difference) { return difference < 0 ? -1 : difference > 0 ? 1 : 0; }

int compare_digits(const std::string& a, const std::string& b) {
  const bool a_negative = a[0] == '-', b_negative = b[0] == '-';
  if (a_negative != b_negative) return a_negative ? -1 : 1;
  int order = a.size() != b.size() ? (a.size() < b.size() ? -1 : 1) : a.compare(b);
  return a_negative ? -order : order;
}

std::string digits_of(const Value& integer) {
  if (integer.is_big_integer()) return integer.big_digits();
  return std::to_string(integer.is_bool() ? int64_t{integer.as_bool()} : integer.as_int());
}

// Exact where a conversion of the integer to double would round.
int compare_int_double(int64_t a, double b) {
  if (b >= 0x1p63) return -1;
  if (b < -0x1p63) return 1;
  const auto whole = static_cast<int64_t>(b);
  if (a != whole) return a < whole ? -1 : 1;
  return -sign_of(b - static_cast<double>(whole));
}

int compare_numbers(const Value& a, const Value& b, bool* unordered) {
  const bool a_double = a.is_double(), b_double = b.is_double();
  if ((a_double && std::isnan(a.as_double())) || (b_double && std::isnan(b.as_double()))) {
    if (unordered) *unordered = true;
    return 1;
  }
  if (a_double && b_double) {
    return a.as_double() < b.as_double() ? -1 : a.as_double() > b.as_double();
  }
  if (a.is_big_integer() || b.is_big_integer()) {
    if (!a_double && !b_double) return compare_digits(digits_of(a), digits_of(b));
    return sign_of(to_double(a) - to_double(b));
  }
  if (a_double) {
    return -compare_int_double(b.is_bool() ? int64_t{b.as_bool()} : b.as_int(), a.as_double());
  }
  const int64_t left = a.is_bool() ? int64_t{a.as_bool()} : a.as_int();
  if (b_double) return compare_int_double(left, b.as_double());
  const int64_t right = b.is_bool() ? int64_t{b.as_bool()} : b.as_int();
  return left < right ? -1 : left > right;
}

bool is_view(SequenceKind kind) {
  return kind == SequenceKind::dict_items || kind == SequenceKind::dict_keys ||
         kind == SequenceKind::dict_values;
}

bool equal_maps(const Map& a, const Map& b, Budget& budget) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key);
    if (!other || !equal(value, *other, budget)) return false;
  }
  return true;
}

class ReprWriter {
 public:
  explicit ReprWriter(Budget& budget) : budget_(budget) {}

  void write(const Value& value) {
    budget_.use_steps(1);
    const size_t before = out.size();
    if (value.is_string()) {
      const std::string quoted = quote(value.as_string());
      out += value.is_markup() ? "Markup(" + quoted + ")" : quoted;
    } else if (value.is_sequence()) {
      write_sequence(value.as_sequence());
    } else if (value.is_map()) {
      write_map(value.as_map());
    } else if (value.is_undefined()) {
      out += "Undefined";
    } else if (value.is_object()) {
      out += fmt::format("<{}>", value.as_object()->type_name());
    } else {
      out += str(value, budget_);
    }
    if (!value.is_sequence() && !value.is_map()) {
      budget_.use_bytes(static_cast<int64_t>(out.size() - before));
    }
  }

  std::string out;

 private:
  void write_items(const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out += ", ";
      write(items[i]);
    }
  }

  void write_sequence(const Sequence& sequence) {
    switch (sequence.kind) {
      case SequenceKind::tuple:
        out += "(";
        write_items(sequence.items);
        out += sequence.items.size() == 1 ? ",)" : ")";
        return;
      case SequenceKind::range:
        out += fmt::format("range({}, {}", sequence.start, sequence.stop);
        out += sequence.step == 1 ? ")" : fmt::format(", {})", sequence.step);
        return;
      case SequenceKind::iterator:
        out += "<generator object>";
        return;
      case SequenceKind::list:
        out += "[";
        break;
      case SequenceKind::dict_items:
        out += "dict_items([";
        break;
      case SequenceKind::dict_keys:
        out += "dict_keys([";
        break;
      case SequenceKind::dict_values:
        out += "dict_values([";
        break;
    }
    write_items(sequence.items);
    out += is_view(sequence.kind) ? "])" : "]";
  }

  void write_map(const Map& map) {
    out += "{";
    bool first = true;
    for (const auto& [key, value] : map.entries) {
      if (!first) out += ", ";
      first = false;
      write(key);
      out += ": ";
      write(value);
    }
    out += "}";
  }

  static std::string quote(const std::string& text) {
    const bool has_single = text.find('\'') != std::string::npos;
    const bool has_double = text.find('"') != std::string::npos;
    const char mark = has_single && !has_double ? '"' : '\'';
    std::string quoted(1, mark);
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      const char32_t c = next_code_point(text, i);
      if (c == '\\' || c == static_cast<char32_t>(mark)) {
        quoted += '\\';
        quoted += static_cast<char>(c);
      } else if (c == '\n') {
        quoted += "\\n";
      } else if (c == '\r') {
        quoted += "\\r";
      } else if (c == '\t') {
        quoted += "\\t";
      } else if (is_printable(c)) {
        quoted.append(text, begin, i - begin);
      } else if (c < 0x100) {
        quoted += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
      } else if (c < 0x10000) {
        quoted += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
      } else {
        quoted += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
      }
    }
    quoted += mark;
    return quoted;
  }

  Budget& budget_;
};

}  // namespace

std::string_view type_name(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is_bool()) return "bool";
  if (value.is_int() || value.is_big_integer()) return "int";
  if (value.is_double()) return "float";
  if (value.is_string()) return value.is_markup() ? "Markup" : "str";
  if (value.is_map()) return "dict";
  if (value.is_object()) return value.as_object()->type_name();
  switch (value.as_sequence().kind) {
    case SequenceKind::list:
      return "list";
    case SequenceKind::tuple:
      return "tuple";
    case SequenceKind::range:
      return "range";
    case SequenceKind::dict_items:
      return "dict_items";
    case SequenceKind::dict_keys:
      return "dict_keys";
    case SequenceKind::dict_values:
      return "dict_values";
    case SequenceKind::iterator:
      break;
  }
  return "generator";
}

bool truthy(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_bool()) return value.as_bool();
  if (value.is_int()) return value.as_int() != 0;
  if (value.is_double()) return value.as_double() != 0;
  if (value.is_string()) return !value.as_string().empty();
  if (value.is_map()) return !value.as_map().entries.empty();
  if (value.is_sequence()) {
    return value.as_sequence().kind == SequenceKind::iterator || !value.items().empty();
  }
  return true;
}

double to_double(const Value& number) {
  if (number.is_double()) return number.as_double();
  if (number.is_bool()) return number.as_bool();
  if (number.is_int()) return static_cast<double>(number.as_int());
  double value = 0;
  const std::string& digits = number.big_digits();
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (end.ec != std::errc()) raise("int too large to convert to float");
  return value;
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.use_steps(1);
  if (a.is_number() && b.is_number()) {
    bool unordered = false;
    return compare_numbers(a, b, &unordered) == 0 && !unordered;
  }
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_string() && b.is_string()) {
    budget.use_steps(static_cast<int64_t>(a.as_string().size() >> 6));
    return a.as_string() == b.as_string();
  }
  if (a.identity() && a.identity() == b.identity()) return true;
  if (a.is_map() && b.is_map()) return equal_maps(a.as_map(), b.as_map(), budget);
  if (!a.is_sequence() || !b.is_sequence()) return false;
  const Sequence& left = a.as_sequence();
  const Sequence& right = b.as_sequence();
  if (left.kind != right.kind || left.kind == SequenceKind::iterator ||
      left.kind == SequenceKind::dict_values || left.items.size() != right.items.size()) {
    return false;
  }
  for (size_t i = 0; i < left.items.size(); ++i) {
    if (!equal(left.items[i], right.items[i], budget)) return false;
  }
  return true;
}

int compare(const Value& a, const Value& b, Budget& budget, bool* unordered) {
  budget.use_steps(1);
  if (a.is_undefined()) raise("{}", a.undefined_message());
  if (b.is_undefined()) raise("{}", b.undefined_message());
  if (a.is_number() && b.is_number()) return compare_numbers(a, b, unordered);
  if (a.is_string() && b.is_string()) {
    budget.use_steps(static_cast<int64_t>(a.as_string().size() >> 6));
    return a.as_string().compare(b.as_string());  // UTF-8 sorts as its code points do
  }
  if (a.is_list() && b.is_list() && a.as_sequence().kind == b.as_sequence().kind) {
    const auto& left = a.items();
    const auto& right = b.items();
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(left[i], right[i], budget)) return compare(left[i], right[i], budget, unordered);
    }
    return left.size() < right.size() ? -1 : left.size() > right.size();
  }
  raise("'<' not supported between instances of '{}' and '{}'", type_name(a), type_name(b));
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  const bool negative = text[0] == '-';
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  const int count = static_cast<int>(digits.size());
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    out += digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    out += digits.substr(0, static_cast<size_t>(exponent + 1)) + "." +
           digits.substr(static_cast<size_t>(exponent + 1));
  }
  return out;
}

std::string str(const Value& value, Budget& budget) {
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.as_bool() ? "True" : "False";
  if (value.is_int()) return std::to_string(value.as_int());
  if (value.is_double()) return float_repr(value.as_double());
  if (value.is_big_integer()) return value.big_digits();
  if (value.is_string()) return value.as_string();
  return repr(value, budget);
}

std::string repr(const Value& value, Budget& budget) {
  ReprWriter writer(budget);
  writer.write(value);
  return std::move(writer.out);
}

Value make_sequence(SequenceKind kind, std::vector<Value> items, Budget& budget) {
  budget.use_bytes(static_cast<int64_t>(64 + items.size() * sizeof(Value)));
  Value value = Value::sequence(kind, std::move(items));
  if (value.depth() > kMaxValueDepth) raise("value nests deeper than {} levels", kMaxValueDepth);
  return value;
}

Value make_list(std::vector<Value> items, Budget& budget) {
  return make_sequence(SequenceKind::list, std::move(items), budget);
}

Value make_map(std::vector<std::pair<Value, Value>> entries, Budget& budget) {
  int64_t bytes = 64;
  for (const auto& [key, value] : entries) {
    if (!is_hashable(key)) raise("unhashable type: '{}'", type_name(key));
    bytes += 128 + (key.is_string() ? static_cast<int64_t>(key.as_string().size()) : 32);
  }
  budget.use_bytes(bytes);
  Value map = Value::map(std::move(entries));
  if (map.depth() > kMaxValueDepth) raise("value nests deeper than {} levels", kMaxValueDepth);
  return map;
}

Value make_string(std::string text, Budget& budget) {
  budget.use_bytes(static_cast<int64_t>(text.size()) + 48);
  return Value(std::move(text));
}

}  // namespace heddle::text
