#include "text/template/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace heddle::text {
namespace {

// Below this many entries a search in order beats a hash table.
constexpr size_t kIndexedEntries = 12;

bool same_key(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) return a.as_string() == b.as_string();
  if (a.is_string() || b.is_string()) return false;
  return hash_key(a) == hash_key(b);
}

}  // namespace

Value::Value(std::string text) : data_(std::make_shared<const String>(String{std::move(text)})) {}

Value Value::undefined(std::string why) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(why))};
  return value;
}

Value Value::markup(std::string text) {
  Value value;
  value.data_ = std::make_shared<const String>(String{std::move(text), true});
  return value;
}

Value Value::big_integer(std::string digits) {
  Value value;
  value.data_ = BigInteger{std::make_shared<const std::string>(std::move(digits))};
  return value;
}

Value Value::sequence(SequenceKind kind, std::vector<Value> items) {
  auto sequence = std::make_shared<Sequence>();
  sequence->kind = kind;
  for (const Value& item : items) sequence->depth = std::max(sequence->depth, item.depth() + 1);
  sequence->items = std::move(items);
  Value value;
  value.data_ = std::shared_ptr<const Sequence>(std::move(sequence));
  return value;
}

Value Value::range(int64_t start, int64_t stop, int64_t step, std::vector<Value> items) {
  auto sequence = std::make_shared<Sequence>();
  sequence->kind = SequenceKind::range;
  sequence->items = std::move(items);
  sequence->start = start;
  sequence->stop = stop;
  sequence->step = step;
  Value value;
  value.data_ = std::shared_ptr<const Sequence>(std::move(sequence));
  return value;
}

Value Value::map(std::vector<std::pair<Value, Value>> entries) {
  auto map = std::make_shared<Map>();
  if (entries.size() > kIndexedEntries) map->index.reserve(entries.size());
  map->entries.reserve(entries.size());
  const bool indexed = entries.size() > kIndexedEntries;
  for (auto& [key, item] : entries) {
    std::string hash;
    Value* known = nullptr;
    if (indexed || !key.is_string()) {
      hash = hash_key(key);
      if (hash.empty()) continue;
    }
    if (indexed) {
      const auto [place, fresh] = map->index.emplace(std::move(hash), map->entries.size());
      if (!fresh) known = &map->entries[place->second].second;
    } else {
      for (auto& entry : map->entries) {
        if (same_key(entry.first, key)) known = &entry.second;
      }
    }
    map->depth = std::max({map->depth, item.depth() + 1, key.depth() + 1});
    if (known) {
      *known = std::move(item);
    } else {
      map->entries.emplace_back(std::move(key), std::move(item));
    }
  }
  Value value;
  value.data_ = std::shared_ptr<const Map>(std::move(map));
  return value;
}

bool Value::is_markup() const {
  const auto* text = std::get_if<std::shared_ptr<const String>>(&data_);
  return text && (*text)->markup;
}

bool Value::is_list() const {
  return is_sequence() &&
         (as_sequence().kind == SequenceKind::list || as_sequence().kind == SequenceKind::tuple);
}

const std::vector<Value>& Value::items() const { return as_sequence().items; }

std::string Value::undefined_message() const {
  const auto* undefined = std::get_if<Undefined>(&data_);
  return undefined && undefined->why ? *undefined->why : "value is undefined";
}

const Value* Value::find(std::string_view key) const {
  return is_map() ? as_map().find(key) : nullptr;
}

int Value::depth() const {
  if (is_sequence()) return as_sequence().depth;
  if (is_map()) return as_map().depth;
  return 0;
}

const void* Value::identity() const {
  if (is_string()) return std::get<std::shared_ptr<const String>>(data_).get();
  if (is_sequence()) return &as_sequence();
  if (is_map()) return &as_map();
  if (is_object()) return as_object().get();
  return nullptr;
}

bool Value::same_as(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (const void* mine = identity()) {
    return mine == other.identity() || (is_string() && as_string() == other.as_string());
  }
  if (is_bool()) return as_bool() == other.as_bool();
  if (is_int()) return as_int() == other.as_int();
  if (is_double()) return as_double() == other.as_double();
  if (is_big_integer()) return big_digits() == other.big_digits();
  return true;
}

const Value* Map::find(const Value& key) const {
  if (index.empty()) {
    for (const auto& entry : entries) {
      if (same_key(entry.first, key)) return &entry.second;
    }
    return nullptr;
  }
  const auto place = index.find(hash_key(key));
  return place == index.end() ? nullptr : &entries[place->second].second;
}

const Value* Map::find(std::string_view key) const {
  if (!index.empty()) {
    std::string hash = "s";
    hash += key;
    const auto place = index.find(hash);
    return place == index.end() ? nullptr : &entries[place->second].second;
  }
  for (const auto& entry : entries) {
    if (entry.first.is_string() && entry.first.as_string() == key) return &entry.second;
  }
  return nullptr;
}

std::string hash_key(const Value& key) {
  if (key.is_string()) return "s" + key.as_string();
  if (key.is_none()) return "n";
  if (key.is_undefined()) return "u";
  if (key.is_bool()) return key.as_bool() ? "i1" : "i0";
  if (key.is_int()) return fmt::format("i{}", key.as_int());
  if (key.is_big_integer()) return "i" + key.big_digits();
  if (key.is_double()) {
    const double value = key.as_double();
    if (std::floor(value) == value && std::abs(value) < 0x1p63) {
      return fmt::format("i{}", static_cast<int64_t>(value));
    }
    return fmt::format("d{}", value);
  }
  if (key.is_object()) return fmt::format("o{}", key.identity());
  if (!key.is_sequence() || key.as_sequence().kind != SequenceKind::tuple) return {};
  std::string text = "(";
  for (const Value& item : key.items()) {
    const std::string part = hash_key(item);
    if (part.empty() || text.size() > (size_t{1} << 20)) return {};
    text += fmt::format("{}:{}", part.size(), part);
  }
  return text;
}

bool is_hashable(const Value& key) { return !hash_key(key).empty(); }

}  // namespace heddle::text
