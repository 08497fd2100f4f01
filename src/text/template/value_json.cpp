// JSON text to Values and back. Reading follows RFC 8259; writing follows Python's json.dumps to
// the byte.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/template/python_string.h"
#include "text/template/value.h"
#include "text/template/value_python.h"

namespace heddle::text {
namespace {

class JsonReader {
 public:
  JsonReader(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  Value read_document() {
    skip_space();
    Value value = read_value(0);
    skip_space();
    if (at_ != text_.size()) wrong("the end of the text");
    return value;
  }

 private:
  [[noreturn]] void wrong(std::string_view expected) const {
    if (at_ >= text_.size()) raise("JSON: text ends at byte {}, expected {}", at_, expected);
    raise("JSON: byte {} is 0x{:02x}, expected {}", at_, static_cast<unsigned char>(text_[at_]),
          expected);
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Value read_value(int depth) {
    if (depth > limits_.max_depth) {
      raise("JSON: byte {}: nested deeper than {} levels", at_, limits_.max_depth);
    }
    if (at_ >= text_.size()) wrong("a value");
    const char c = text_[at_];
    if (c == '"') return Value(read_string());
    if (c == '{') return read_object(depth);
    if (c == '[') return read_array(depth);
    if (c == '-' || (c >= '0' && c <= '9')) return read_number();
    if (take_word("true")) return Value(true);
    if (take_word("false")) return Value(false);
    if (take_word("null")) return Value(nullptr);
    wrong("a value");
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Value read_object(int depth) {
    ++at_;
    std::vector<std::pair<Value, Value>> entries;
    if (take('}')) return Value::map();
    do {
      skip_space();
      if (at_ >= text_.size() || text_[at_] != '"') wrong("a key in quotes");
      Value key(read_string());
      if (!take(':')) wrong("':'");
      skip_space();
      entries.emplace_back(std::move(key), read_value(depth + 1));
    } while (take(','));
    if (!take('}')) wrong("',' or '}'");
    return Value::map(std::move(entries));
  }

  Value read_array(int depth) {
    ++at_;
    std::vector<Value> items;
    if (take(']')) return Value::list({});
    do {
      skip_space();
      items.push_back(read_value(depth + 1));
    } while (take(','));
    if (!take(']')) wrong("',' or ']'");
    return Value::list(std::move(items));
  }

  size_t take_digits() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ - begin;
  }

  Value read_number() {
    const size_t begin = at_;
    if (text_[at_] == '-') ++at_;
    const size_t first = at_;
    const size_t digits = take_digits();
    if (digits == 0) wrong("a digit");
    if (digits > 1 && text_[first] == '0') raise("JSON: byte {}: a number starts with 0", first);
    bool whole = true;
    if (at_ < text_.size() && text_[at_] == '.') {
      whole = false;
      ++at_;
      if (take_digits() == 0) wrong("a digit");
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      whole = false;
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
      if (take_digits() == 0) wrong("a digit");
    }
    const char* from = text_.data() + begin;
    const char* to = text_.data() + at_;
    if (whole) {
      int64_t integer = 0;
      if (std::from_chars(from, to, integer).ec == std::errc()) return Value(integer);
      if (digits > 4300) raise("JSON: byte {}: an integer of more than 4300 digits", begin);
      return Value::big_integer(std::string(from, to));
    }
    double number = 0;
    if (std::from_chars(from, to, number).ec != std::errc()) {
      // Out of range: strtod gives the infinity or the zero that Python gives.
      number = std::strtod(std::string(from, to).c_str(), nullptr);
    }
    return Value(number);
  }

  uint32_t read_hex4() {
    uint32_t code = 0;
    const char* from = text_.data() + at_;
    if (at_ + 4 > text_.size()) wrong("four hex digits");
    const auto end = std::from_chars(from, from + 4, code, 16);
    if (end.ptr != from + 4) wrong("four hex digits");
    at_ += 4;
    return code;
  }

  void read_escape(std::string& out) {
    if (at_ >= text_.size()) wrong("an escape");
    const char c = text_[at_++];
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kBytes = "\"\\/\b\f\n\r\t";
    const size_t known = kNames.find(c);
    if (known != std::string_view::npos) {
      out += kBytes[known];
      return;
    }
    if (c != 'u') {
      --at_;
      wrong("an escape");
    }
    const size_t begin = at_ - 2;
    char32_t code = read_hex4();
    if (code >= 0xd800 && code < 0xdc00 && take_word("\\u")) {
      const uint32_t low = read_hex4();
      if (low < 0xdc00 || low > 0xdfff) raise("JSON: byte {}: a lone surrogate", begin);
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code >= 0xd800 && code < 0xe000) raise("JSON: byte {}: a lone surrogate", begin);
    append_code_point(out, code);
  }

  std::string read_string() {
    const size_t begin = at_++;
    std::string out;
    while (true) {
      const size_t run = at_;
      while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' &&
             static_cast<unsigned char>(text_[at_]) >= 0x20) {
        ++at_;
      }
      out.append(text_.substr(run, at_ - run));
      if (at_ >= text_.size()) wrong("the end of a string");
      if (text_[at_] == '"') break;
      if (text_[at_] != '\\') wrong("no control character in a string");
      ++at_;
      read_escape(out);
    }
    ++at_;
    if (!is_valid_utf8(out)) raise("JSON: the string at byte {} is not UTF-8", begin);
    return out;
  }

  std::string_view text_;
  const JsonLimits& limits_;
  size_t at_ = 0;
};

class JsonWriter {
 public:
  explicit JsonWriter(const JsonOptions& options) : options_(options) {
    items_ =
        options.item_separator.empty() ? (options.pretty ? "," : ", ") : options.item_separator;
    keys_ = options.key_separator.empty() ? ": " : options.key_separator;
  }

  void write(const Value& value, int level) {
    if (static_cast<int64_t>(out.size()) > options_.max_bytes) {
      raise("JSON: the text is larger than {} bytes", options_.max_bytes);
    }
    if (level > kMaxValueDepth) raise("JSON: nested deeper than {} levels", kMaxValueDepth);
    if (value.is_string()) {
      write_string(value.as_string());
    } else if (value.is_list()) {
      write_array(value.items(), level);
    } else if (value.is_map()) {
      write_object(value.as_map(), level);
    } else if (value.is_none() || value.is_number()) {
      out += scalar(value);
    } else {
      raise("Object of type {} is not JSON serializable", type_name(value));
    }
  }

  std::string out;

 private:
  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.as_bool() ? "true" : "false";
    if (value.is_int()) return std::to_string(value.as_int());
    if (value.is_big_integer()) return value.big_digits();
    if (std::isnan(value.as_double())) return "NaN";
    if (std::isinf(value.as_double())) return value.as_double() < 0 ? "-Infinity" : "Infinity";
    return float_repr(value.as_double());
  }

  void line(int level) {
    if (!options_.pretty) return;
    out += '\n';
    for (int i = 0; i < level; ++i) out += options_.indent;
  }

  void write_array(const std::vector<Value>& items, int level) {
    if (items.empty()) {
      out += "[]";
      return;
    }
    out += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out += items_;
      line(level + 1);
      write(items[i], level + 1);
    }
    line(level);
    out += ']';
  }

  void write_object(const Map& map, int level) {
    if (map.entries.empty()) {
      out += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> order;
    for (const auto& entry : map.entries) order.push_back(&entry);
    if (options_.sort_keys) {
      Budget budget{.steps = options_.max_bytes, .bytes = options_.max_bytes};
      std::stable_sort(order.begin(), order.end(), [&](const auto* a, const auto* b) {
        return compare(a->first, b->first, budget) < 0;
      });
    }
    out += '{';
    for (size_t i = 0; i < order.size(); ++i) {
      if (i) out += items_;
      line(level + 1);
      const Value& key = order[i]->first;
      if (key.is_string()) {
        write_string(key.as_string());
      } else if (key.is_none() || key.is_number()) {
        out += '"' + scalar(key) + '"';
      } else {
        raise("keys must be str, int, float, bool or None, not {}", type_name(key));
      }
      out += keys_;
      write(order[i]->second, level + 1);
    }
    line(level);
    out += '}';
  }

  void write_string(const std::string& text) {
    out += '"';
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      const char32_t c = next_code_point(text, i);
      constexpr std::string_view kBytes = "\"\\\b\f\n\r\t";
      constexpr std::string_view kNames = "\"\\bfnrt";
      const size_t known = c < 0x80 ? kBytes.find(static_cast<char>(c)) : std::string_view::npos;
      if (known != std::string_view::npos) {
        out += '\\';
        out += kNames[known];
      } else if (c < 0x20 || (options_.ensure_ascii && c >= 0x7f && c < 0x10000)) {
        out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
      } else if (options_.ensure_ascii && c >= 0x10000) {
        const uint32_t offset = static_cast<uint32_t>(c) - 0x10000;
        out +=
            fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (offset >> 10), 0xdc00 + (offset & 0x3ff));
      } else {
        out.append(text, begin, i - begin);
      }
    }
    out += '"';
  }

  const JsonOptions& options_;
  std::string items_, keys_;
};

}  // namespace

Result<Value> parse_json(std::string_view text, const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    return fail("JSON: {} bytes, expected at most {}", text.size(), limits.max_bytes);
  }
  try {
    return JsonReader(text, limits).read_document();
  } catch (const PythonError& error) {
    return fail("{}", error.message);
  }
}

Result<std::string> to_json(const Value& value, const JsonOptions& options) {
  try {
    JsonWriter writer(options);
    writer.write(value, 0);
    return std::move(writer.out);
  } catch (const PythonError& error) {
    return fail("{}", error.message);
  }
}

}  // namespace heddle::text
