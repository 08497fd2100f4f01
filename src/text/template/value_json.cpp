// Values as JSON text: what Python's json.dumps writes, to the byte.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/template/python_string.h"
#include "text/template/value.h"
#include "text/template/value_python.h"

namespace heddle::text {
namespace {

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
