#pragma once
// Value: what a chat template computes with: JSON's types, Python's sequences, and the template's
// own objects.
//
// A Value is a small tagged handle (24 bytes); strings, sequences and maps are shared and
// immutable, so copying a message list costs one reference count. Values may be read from several
// threads at once. Strings are UTF-8. Maps keep insertion order; their keys may be any hashable
// Value (JSON has string keys only).
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace heddle::text {

class Value;

// Anything that only a running template can make: namespaces, macros, bound methods, loop
// variables.
class Object {
 public:
  virtual ~Object() = default;
  // The type name a Python programmer would see in an error message.
  virtual std::string_view type_name() const = 0;
};

// How a sequence presents itself. The items are the same; printing, indexing and len() differ as in
// Python.
enum class SequenceKind : uint8_t {
  list,
  tuple,
  range,
  dict_items,
  dict_keys,
  dict_values,
  iterator
};

struct String {
  std::string text;
  bool markup =
      false;  // made by the filters `safe` and `escape`: joining plain text to it escapes that text
};

struct Sequence;
struct Map;

class Value {
 public:
  struct Undefined {
    std::shared_ptr<const std::string>
        why;  // message of the error that using it raises; may be null
  };
  struct BigInteger {  // an integer beyond int64: printed and compared, never computed with
    std::shared_ptr<const std::string> digits;
  };

  Value() = default;  // undefined
  Value(std::nullptr_t) : data_(nullptr) {}
  Value(bool value) : data_(value) {}
  Value(int value) : data_(int64_t{value}) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(std::string text);
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}

  static Value undefined(std::string why);
  static Value markup(std::string text);
  static Value big_integer(std::string digits);
  static Value sequence(SequenceKind kind, std::vector<Value> items);
  static Value list(std::vector<Value> items) {
    return sequence(SequenceKind::list, std::move(items));
  }
  static Value tuple(std::vector<Value> items) {
    return sequence(SequenceKind::tuple, std::move(items));
  }
  static Value range(int64_t start, int64_t stop, int64_t step, std::vector<Value> items);
  // A later entry with an equal key replaces the earlier value and keeps its place. Keys must be
  // hashable: see is_hashable; an unhashable key is dropped.
  static Value map(std::vector<std::pair<Value, Value>> entries = {});

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<std::nullptr_t>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_double() const { return std::holds_alternative<double>(data_); }
  bool is_big_integer() const { return std::holds_alternative<BigInteger>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_double() || is_big_integer(); }
  bool is_string() const { return std::holds_alternative<std::shared_ptr<const String>>(data_); }
  bool is_markup() const;
  bool is_sequence() const {
    return std::holds_alternative<std::shared_ptr<const Sequence>>(data_);
  }
  bool is_list() const;  // of kind list or tuple
  bool is_map() const { return std::holds_alternative<std::shared_ptr<const Map>>(data_); }
  bool is_object() const { return std::holds_alternative<std::shared_ptr<Object>>(data_); }

  // Each requires the type of its name.
  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const { return std::get<int64_t>(data_); }
  double as_double() const { return std::get<double>(data_); }
  const std::string& as_string() const {
    return std::get<std::shared_ptr<const String>>(data_)->text;
  }
  const Sequence& as_sequence() const { return *std::get<std::shared_ptr<const Sequence>>(data_); }
  const std::shared_ptr<const Sequence>& shared_sequence() const {
    return std::get<std::shared_ptr<const Sequence>>(data_);
  }
  const std::vector<Value>& items() const;  // of a sequence
  const Map& as_map() const { return *std::get<std::shared_ptr<const Map>>(data_); }
  const std::shared_ptr<Object>& as_object() const {
    return std::get<std::shared_ptr<Object>>(data_);
  }
  const std::string& big_digits() const { return *std::get<BigInteger>(data_).digits; }
  std::string undefined_message() const;

  // The entry of a map whose key is the string `key`; null if this is no map or has no such entry.
  const Value* find(std::string_view key) const;
  // Levels of nesting below and including this container; 0 for anything else.
  int depth() const;
  // True if both are one shared object, or equal scalars of one type (Python's `is`).
  bool same_as(const Value& other) const;
  // The address that names a shared payload, for cycle-safe walks; null for scalars.
  const void* identity() const;

 private:
  std::variant<Undefined, std::nullptr_t, bool, int64_t, double, BigInteger,
               std::shared_ptr<const String>, std::shared_ptr<const Sequence>,
               std::shared_ptr<const Map>, std::shared_ptr<Object>>
      data_;
};

struct Sequence {
  SequenceKind kind = SequenceKind::list;
  int depth = 1;
  std::vector<Value> items;
  int64_t start = 0, stop = 0, step = 1;  // of a range
  mutable bool consumed = false;          // of an iterator: it yields its items once
};

struct Map {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
  // Position of each key by hash_key(); built only for maps too large to search in order.
  std::unordered_map<std::string, size_t> index;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
};

// Equal keys (1, 1.0 and true are one key, as in Python) have equal texts. Empty for what cannot be
// a key.
std::string hash_key(const Value& key);
bool is_hashable(const Value& key);

struct JsonLimits {
  int max_depth = 128;
  int64_t max_bytes = int64_t{1} << 28;
};

// RFC 8259 text to a Value; key order kept, the last of equal keys wins. Integers beyond int64 stay
// exact. Fails, with the byte offset, on anything else: trailing text, bad UTF-8, lone surrogates,
// numbers beyond a double; and on what is too deep or too long.
Result<Value> parse_json(std::string_view text, const JsonLimits& limits = {});

struct JsonOptions {
  bool ensure_ascii = false;  // escape everything beyond ASCII
  bool pretty = false;        // line breaks, each level indented by `indent`
  std::string indent;
  std::string item_separator;  // empty: ", ", or "," when pretty
  std::string key_separator;   // empty: ": "
  bool sort_keys = false;
  int64_t max_bytes = int64_t{1} << 28;
};

// The text that Python's json.dumps writes. Fails on what JSON cannot hold (undefined, objects,
// views) and beyond max_bytes.
Result<std::string> to_json(const Value& value, const JsonOptions& options = {});

}  // namespace heddle::text
