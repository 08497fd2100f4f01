// str.format and the % operator.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/template/jinja/interpreter.h"
#include "text/template/python_string.h"

namespace heddle::text::jinja {
namespace {

// No field is padded or given digits beyond this.
constexpr int64_t kMaxWidth = 10'000;

struct FieldFormat {
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false;
  bool zero = false;
  int64_t width = 0;
  char grouping = 0;
  int64_t precision = -1;
  char type = 0;
};

int64_t read_digits(std::string_view text, size_t& at) {
  int64_t value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = value * 10 + (text[at++] - '0');
    if (value > kMaxWidth) raise("format width or precision above {}", kMaxWidth);
  }
  return value;
}

FieldFormat parse_field_format(std::string_view spec) {
  FieldFormat format;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!spec.empty()) {
    size_t after = 0;
    next_code_point(spec, after);
    if (after < spec.size() && is_align(spec[after])) {
      format.fill = std::string(spec.substr(0, after));
      format.align = spec[after];
      at = after + 1;
    } else if (is_align(spec[0])) {
      format.align = spec[0];
      at = 1;
    }
  }
  const auto take = [&](std::string_view any) -> char {
    if (at >= spec.size() || any.find(spec[at]) == std::string_view::npos) return 0;
    return spec[at++];
  };
  if (const char sign = take("+- ")) format.sign = sign;
  format.alternate = take("#") != 0;
  if (take("0")) {
    format.zero = true;
    if (!format.align) {
      format.fill = "0";
      format.align = '=';
    }
  }
  format.width = read_digits(spec, at);
  format.grouping = take(",_");
  if (take(".")) {
    if (at >= spec.size() || spec[at] < '0' || spec[at] > '9')
      raise("Format specifier missing precision");
    format.precision = read_digits(spec, at);
  }
  if (at < spec.size()) format.type = spec[at++];
  if (at < spec.size()) raise("Invalid format specifier '{}'", spec);
  return format;
}

std::string repeat_text(const std::string& text, int64_t count) {
  std::string out;
  for (int64_t i = 0; i < count; ++i) out += text;
  return out;
}

// `prefix` (a sign, 0x) stays in front of '='-padding.
std::string pad(const FieldFormat& format, const std::string& prefix, const std::string& body,
                char default_align) {
  const int64_t missing = format.width - code_point_count(prefix) - code_point_count(body);
  if (missing <= 0) return prefix + body;
  switch (format.align ? format.align : default_align) {
    case '<':
      return prefix + body + repeat_text(format.fill, missing);
    case '^':
      return repeat_text(format.fill, missing / 2) + prefix + body +
             repeat_text(format.fill, missing - missing / 2);
    case '=':
      return prefix + repeat_text(format.fill, missing) + body;
    default:
      return repeat_text(format.fill, missing) + prefix + body;
  }
}

std::string group_digits(const std::string& digits, char separator, size_t size) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i && (whole - i) % size == 0) out += separator;
    out += digits[i];
  }
  return out + digits.substr(whole);
}

std::string in_base(uint64_t value, int base, bool upper) {
  char buffer[72];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, base);
  std::string text(buffer, end.ptr);
  if (upper)
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return static_cast<char>(toupper(c)); });
  return text;
}

std::string sign_text(bool negative, char sign) {
  return negative ? "-" : sign == '-' ? "" : std::string(1, sign);
}

// Digits of |value| in the style of C's printf.
std::string float_digits(double value, char type, int64_t precision, bool alternate) {
  if (std::isnan(value)) return type == 'F' || type == 'E' || type == 'G' ? "NAN" : "nan";
  if (std::isinf(value)) return type == 'F' || type == 'E' || type == 'G' ? "INF" : "inf";
  std::string spec = alternate ? "%#.*" : "%.*";
  spec += type;
  const int digits = static_cast<int>(precision);
  const int size = snprintf(nullptr, 0, spec.c_str(), digits, std::abs(value));
  std::string out(static_cast<size_t>(size) + 1, '\0');
  snprintf(out.data(), out.size(), spec.c_str(), digits, std::abs(value));
  out.pop_back();
  return out;
}

std::string format_float(const FieldFormat& format, double value) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const char type = format.type == 'n' ? 'g' : format.type;
  std::string digits;
  if (type == 0) {
    digits = format.precision < 0
                 ? float_repr(std::abs(value))
                 : float_digits(value, 'g', std::max<int64_t>(format.precision, 1), false);
  } else if (type == '%') {
    digits =
        float_digits(value * 100, 'f', format.precision < 0 ? 6 : format.precision, false) + "%";
  } else if (std::string_view("eEfFgG").find(type) != std::string_view::npos) {
    int64_t precision = format.precision < 0 ? 6 : format.precision;
    digits = float_digits(value, type, precision, format.alternate);
  } else {
    raise("Unknown format code '{}' for object of type 'float'", type);
  }
  if (format.grouping) digits = group_digits(digits, format.grouping, 3);
  return pad(format, sign_text(negative, format.sign), digits, '>');
}

std::string format_int(const FieldFormat& format, const Value& value) {
  const char type = format.type ? format.type : 'd';
  if (std::string_view("eEfFgG%").find(type) != std::string_view::npos) {
    return format_float(format, to_double(value));
  }
  if (format.precision >= 0) raise("Precision not allowed in integer format specifier");
  if (value.is_big_integer()) {
    if (type != 'd' && type != 'n') raise("integer beyond 64 bits in format");
    const bool negative = value.big_digits()[0] == '-';
    std::string digits = value.big_digits().substr(negative ? 1 : 0);
    if (format.grouping) digits = group_digits(digits, format.grouping, 3);
    return pad(format, sign_text(negative, format.sign), digits, '>');
  }
  const int64_t number = to_integer(value, "format argument");
  if (type == 'c') {
    if (number < 0 || number > 0x10ffff) raise("%c arg not in range(0x110000)");
    std::string text;
    append_code_point(text, static_cast<char32_t>(number));
    return pad(format, "", text, '<');
  }
  const uint64_t size =
      number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  std::string prefix = sign_text(number < 0, format.sign);
  int base = 10;
  if (type == 'x' || type == 'X') base = 16;
  if (type == 'o') base = 8;
  if (type == 'b') base = 2;
  if (base == 10 && type != 'd' && type != 'n') {
    raise("Unknown format code '{}' for object of type 'int'", type);
  }
  if (format.alternate && base != 10) prefix += std::string("0") + type;
  std::string digits = in_base(size, base, type == 'X');
  if (format.grouping) digits = group_digits(digits, format.grouping, base == 10 ? 3 : 4);
  return pad(format, prefix, digits, '>');
}

std::string format_text(const FieldFormat& format, std::string_view text) {
  if (format.type && format.type != 's') {
    raise("Unknown format code '{}' for object of type 'str'", format.type);
  }
  if (format.align == '=' && !format.zero)
    raise("'=' alignment not allowed in string format specifier");
  std::string cut(text);
  if (format.precision >= 0) {
    size_t at = 0;
    for (int64_t i = 0; i < format.precision && at < text.size(); ++i) next_code_point(text, at);
    cut = std::string(text.substr(0, at));
  }
  FieldFormat padded = format;
  if (padded.align == '=') padded.align = '<';
  return pad(padded, "", cut, '<');
}

std::string format_value(Interpreter& in, const Value& value, std::string_view spec) {
  if (spec.empty()) return in.text_of(value);
  const FieldFormat format = parse_field_format(spec);
  if (value.is_string()) return format_text(format, value.as_string());
  if (value.is_double()) return format_float(format, value.as_double());
  if (value.is_bool() && format.type == 0) return format_text(format, in.text_of(value));
  if (value.is_number()) return format_int(format, value);
  raise("unsupported format string passed to {}.__format__", type_name(value));
}

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& in, const Arguments& arguments) : in_(in), arguments_(arguments) {}

  std::string format(std::string_view text, int depth) {
    if (depth < 0) raise("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const char c = text[at];
      if (c != '{' && c != '}') {
        out += c;
        ++at;
        continue;
      }
      if (at + 1 < text.size() && text[at + 1] == c) {
        out += c;
        at += 2;
        continue;
      }
      if (c == '}') raise("Single '}}' encountered in format string");
      const size_t end = field_end(text, at);
      out += field(text.substr(at + 1, end - at - 1), depth);
      in_.check_size(static_cast<int64_t>(out.size()));
      at = end + 1;
    }
    in_.budget().use_bytes(static_cast<int64_t>(out.size()));
    return out;
  }

 private:
  static size_t field_end(std::string_view text, size_t at) {
    int open = 0;
    for (size_t i = at; i < text.size(); ++i) {
      if (text[i] == '{') ++open;
      if (text[i] == '}' && --open == 0) return i;
    }
    raise("expected '}}' before end of string");
  }

  std::string field(std::string_view field, int depth) {
    const size_t bracket = field.find('[');
    size_t mark = field.find_first_of("!:");
    if (bracket != std::string_view::npos && bracket < mark) {  // an index may hold any character
      const size_t close = field.find(']', bracket);
      mark = close == std::string_view::npos ? close : field.find_first_of("!:", close);
    }
    std::string_view name = field.substr(0, std::min(mark, field.size()));
    char conversion = 0;
    std::string_view spec;
    if (mark != std::string_view::npos) {
      if (field[mark] == '!') {
        if (mark + 1 >= field.size()) raise("end of string while looking for conversion specifier");
        conversion = field[mark + 1];
        mark += 2;
        if (mark < field.size() && field[mark] != ':')
          raise("expected ':' after conversion specifier");
      }
      if (mark < field.size()) spec = field.substr(mark + 1);
    }
    Value value = lookup(name);
    if (conversion == 'r' || conversion == 'a') {
      value = Value(repr(value, in_.budget()));
    } else if (conversion == 's') {
      value = Value(in_.text_of(value));
    } else if (conversion != 0) {
      raise("Unknown conversion specifier {}", conversion);
    }
    return format_value(in_, value, format(spec, depth - 1));
  }

  Value lookup(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = first(name.substr(0, end));
    size_t at = end;
    while (at < name.size()) {
      if (name[at] == '.') {
        const size_t stop = std::min(name.find_first_of(".[", at + 1), name.size());
        if (stop == at + 1) raise("Empty attribute in format string");
        value = in_.attribute(value, std::string(name.substr(at + 1, stop - at - 1)));
        at = stop;
      } else if (name[at] == '[') {
        const size_t stop = name.find(']', at);
        if (stop == std::string_view::npos) raise("Missing ']' in format string");
        const std::string_view key = name.substr(at + 1, stop - at - 1);
        if (key.empty()) raise("Empty attribute in format string");
        const bool digits =
            key.find_first_not_of("0123456789") == std::string_view::npos && key.size() < 18;
        value = in_.item(
            value, digits ? Value(static_cast<int64_t>(std::stoll(std::string(key)))) : Value(key));
        at = stop + 1;
      } else {
        raise("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  Value first(std::string_view name) {
    size_t index = next_;
    if (name.empty()) {
      if (numbered_)
        raise("cannot switch from manual field specification to automatic field numbering");
      automatic_ = true;
      ++next_;
    } else if (name.find_first_not_of("0123456789") == std::string_view::npos) {
      if (automatic_)
        raise("cannot switch from automatic field numbering to manual field specification");
      numbered_ = true;
      index = name.size() < 9 ? std::stoul(std::string(name)) : SIZE_MAX;
    } else {
      for (const auto& [known, value] : arguments_.named) {
        if (known == name) return value;
      }
      raise("no format argument named '{}'", name);
    }
    if (index >= arguments_.positional.size()) {
      raise("Replacement index {} out of range for positional args tuple", index);
    }
    return arguments_.positional[index];
  }

  Interpreter& in_;
  const Arguments& arguments_;
  size_t next_ = 0;
  bool automatic_ = false, numbered_ = false;
};

std::string percent_field(Interpreter& in, FieldFormat format, const Value& value) {
  switch (format.type) {
    case 's':
    case 'r':
    case 'a': {
      const std::string text = format.type == 's' ? in.text_of(value) : repr(value, in.budget());
      format.type = 's';
      if (format.align == '=') format.align = '>';
      if (!format.align) format.align = '>';
      format.fill = " ";
      format.zero = false;
      return format_text(format, text);
    }
    case 'c':
      if (value.is_string()) {
        if (code_point_count(value.as_string()) != 1) raise("%c requires int or char");
        return pad(format, "", value.as_string(), '>');
      }
      return format_int(format, value);
    case 'd':
    case 'i':
    case 'u': {
      if (!value.is_number())
        raise("%{} format: a real number is required, not {}", format.type, type_name(value));
      format.type = 'd';
      format.precision = -1;
      if (value.is_double()) {
        if (!(std::abs(value.as_double()) < 0x1p63)) raise("cannot convert float to integer");
        return format_int(format, Value(static_cast<int64_t>(value.as_double())));
      }
      return format_int(format, value);
    }
    case 'x':
    case 'X':
    case 'o':
      if (!value.is_int() && !value.is_bool())
        raise("%{} format: an integer is required, not {}", format.type, type_name(value));
      format.precision = -1;
      return format_int(format, value);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      if (!value.is_number()) raise("must be real number, not {}", type_name(value));
      return format_float(format, to_double(value));
    default:
      raise("unsupported format character '{}'", format.type);
  }
}

}  // namespace

std::string format_braces(Interpreter& in, const std::string& format, const Arguments& arguments) {
  return BraceFormatter(in, arguments).format(format, 2);
}

std::string format_percent(Interpreter& in, const std::string& format, const Value& arguments) {
  const bool is_tuple =
      arguments.is_sequence() && arguments.as_sequence().kind == SequenceKind::tuple;
  size_t used = 0;
  const auto next_argument = [&]() -> Value {
    const size_t count = is_tuple ? arguments.items().size() : 1;
    if (used >= count) raise("not enough arguments for format string");
    return is_tuple ? arguments.items()[used++] : (++used, arguments);
  };
  std::string out;
  bool by_name = false;
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    ++at;
    std::optional<Value> named;
    if (at < format.size() && format[at] == '(') {
      const size_t close = format.find(')', at);
      if (close == std::string::npos) raise("incomplete format key");
      if (!arguments.is_map()) raise("format requires a mapping");
      const std::string key = format.substr(at + 1, close - at - 1);
      const Value* found = arguments.find(key);
      if (!found) raise("no format argument named '{}'", key);
      named = *found;
      by_name = true;
      at = close + 1;
    }
    FieldFormat field;
    for (;
         at < format.size() && std::string_view("-+ #0").find(format[at]) != std::string_view::npos;
         ++at) {
      if (format[at] == '-') field.align = '<';
      if (format[at] == '+') field.sign = '+';
      if (format[at] == ' ' && field.sign != '+') field.sign = ' ';
      if (format[at] == '#') field.alternate = true;
      if (format[at] == '0') field.zero = true;
    }
    if (field.zero && field.align != '<') {
      field.fill = "0";
      field.align = '=';
    }
    field.width = read_digits(format, at);
    if (at < format.size() && format[at] == '.') {
      ++at;
      field.precision = read_digits(format, at);
    }
    if (at >= format.size()) raise("incomplete format");
    field.type = format[at++];
    if (field.type == '%') {
      out += '%';
      continue;
    }
    out += percent_field(in, field, named ? *named : next_argument());
    in.check_size(static_cast<int64_t>(out.size()));
  }
  const size_t given = is_tuple ? arguments.items().size() : 1;
  if (!by_name && used < given && (is_tuple || !arguments.is_map())) {
    raise("not all arguments converted during string formatting");
  }
  in.budget().use_bytes(static_cast<int64_t>(out.size()));
  return out;
}

}  // namespace heddle::text::jinja
