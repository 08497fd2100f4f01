// JSON text to Values. The grammar is nlohmann-json's; what a number, a depth and a duplicate key
// mean is decided here.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "text/template/value.h"
#include "text/utf8.h"

namespace heddle::text {
namespace {

constexpr size_t kMaxDigits = 4300;  // of an integer, as in Python

// Takes the parser's events. A method that returns false ends the parsing; error() says why.
class ValueBuilder {
 public:
  explicit ValueBuilder(int max_depth) : max_depth_(max_depth) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(int64_t value) { return add(value); }
  bool number_unsigned(uint64_t value) {
    if (value <= static_cast<uint64_t>(INT64_MAX)) return add(static_cast<int64_t>(value));
    return add(Value::big_integer(std::to_string(value)));
  }
  // Integers beyond 64 bits come here too, with their digits.
  bool number_float(double value, const std::string& written) {
    if (written.find_first_of(".eE") != std::string::npos) return add(value);
    if (written.size() > kMaxDigits) return refuse("an integer of too many digits");
    return add(Value::big_integer(written));
  }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(std::vector<uint8_t>&) { return refuse("binary data"); }  // never in text
  bool start_object(size_t) { return open(); }
  bool key(std::string& name) {
    open_.back().key = Value(std::move(name));
    return true;
  }
  bool end_object() {
    Value map = Value::map(std::move(open_.back().entries));
    open_.pop_back();
    return add(std::move(map));
  }
  bool start_array(size_t) { return open(); }
  bool end_array() {
    std::vector<Value> items;
    items.reserve(open_.back().entries.size());
    for (auto& [key, value] : open_.back().entries) items.push_back(std::move(value));
    open_.pop_back();
    return add(Value::list(std::move(items)));
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: WHAT; last read: 'TEXT';
    // expected X"
    std::string what = error.what();
    for (const char* mark : {"] ", ": "}) {
      const size_t at = what.find(mark);
      if (at != std::string::npos && at + 2 < what.size()) what.erase(0, at + 2);
    }
    const size_t read = what.find("; last read: ");
    const size_t expected = what.rfind("; expected ");
    if (read != std::string::npos)
      what.erase(read, expected != std::string::npos && expected > read ? expected - read
                                                                        : std::string::npos);
    error_ = fmt::format("byte {}: {}", position, sanitize_utf8(what));
    return false;
  }

  const std::string& error() const { return error_; }
  Value take() { return std::move(root_); }

 private:
  struct Open {
    Value key;  // of the next value, in an object
    std::vector<std::pair<Value, Value>> entries;
  };

  bool refuse(const char* what) {
    error_ = what;
    return false;
  }
  bool open() {
    if (std::ssize(open_) > max_depth_) {
      error_ = fmt::format("nested deeper than {} levels", max_depth_);
      return false;
    }
    open_.emplace_back();
    return true;
  }
  bool add(Value value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else {
      open_.back().entries.emplace_back(std::move(open_.back().key), std::move(value));
    }
    return true;
  }

  int max_depth_;
  std::vector<Open> open_;
  Value root_;
  std::string error_;
};

}  // namespace

Result<Value> parse_json(std::string_view text, const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes)
    return fail("JSON: {} bytes, expected at most {}", text.size(), limits.max_bytes);
  // To the parser the text would end there.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)
    return fail("JSON: byte {} is 0x00", zero);
  // The parser would skip it.
  if (text.starts_with("\xef\xbb\xbf"))
    return fail("JSON: byte 0 begins a byte order mark, expected a value");
  ValueBuilder builder(limits.max_depth);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder))
    return fail("JSON: {}", builder.error());
  return builder.take();
}

}  // namespace heddle::text
