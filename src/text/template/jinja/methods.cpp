// Methods of strings and dicts.
#include <algorithm>
#include <array>
#include <cmath>

#include "text/template/jinja/interpreter.h"
#include "text/template/python_string.h"

namespace heddle::text::jinja {
namespace {

using Method = Value (*)(Interpreter&, const Value& self, const Arguments&);

struct NamedMethod {
  std::string_view name;
  Method method;
};

// A string result keeps the markup flag of the string it came from.
Value like(Interpreter& in, const Value& self, std::string text) {
  in.budget().use_bytes(static_cast<int64_t>(text.size()) + 48);
  return self.is_markup() ? Value::markup(std::move(text)) : Value(std::move(text));
}

const std::string& need_string(const Value& value, std::string_view function) {
  if (!value.is_string()) raise("{}: expected str, got {}", function, type_name(value));
  return value.as_string();
}

Value strip_with(Interpreter& in, const Value& self, const Arguments& arguments, bool left,
                 bool right) {
  const auto given = match(arguments, "strip", {"chars"});
  const bool any_space = !given[0] || given[0]->is_none();
  const std::string* set = any_space ? nullptr : &need_string(*given[0], "strip");
  if (set) {
    in.budget().use_steps(static_cast<int64_t>(std::min(set->size(), size_t{1} << 20) *
                                               (self.as_string().size() >> 6)));
  }
  return like(in, self, std::string(strip(self.as_string(), left, right, set)));
}

template <std::string (*Convert)(std::string_view)>
Value convert(Interpreter& in, const Value& self, const Arguments& arguments) {
  match(arguments, "case conversion", {});
  in.budget().use_steps(static_cast<int64_t>(self.as_string().size() >> 2));
  return like(in, self, Convert(self.as_string()));
}

int64_t integer_or(const Value* value, int64_t missing, std::string_view what) {
  return value && !value->is_none() ? to_integer(*value, what) : missing;
}

Value split(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "split", {"sep", "maxsplit"});
  int64_t left = integer_or(given[1], -1, "maxsplit");
  std::string_view text = self.as_string();
  std::vector<Value> parts;
  const auto add = [&](std::string_view part) {
    parts.push_back(like(in, self, std::string(part)));
  };
  if (!given[0] || given[0]->is_none()) {
    text = strip(text, true, false);
    while (!text.empty()) {
      if (left-- == 0) {
        add(text);
        break;
      }
      size_t begin = 0;  // of the whitespace that ends the next word
      while (begin < text.size()) {
        size_t end = begin;
        if (is_space(next_code_point(text, end))) break;
        begin = end;
      }
      add(text.substr(0, begin));
      text = strip(text.substr(begin), true, false);
    }
    return in.list(std::move(parts));
  }
  const std::string& separator = need_string(*given[0], "split");
  if (separator.empty()) raise("empty separator");
  while (left-- != 0) {
    const size_t at = find_text(text, separator);
    if (at == std::string_view::npos) break;
    add(text.substr(0, at));
    text = text.substr(at + separator.size());
  }
  add(text);
  return in.list(std::move(parts));
}

// Byte range of self[start:end] in code points.
std::pair<size_t, size_t> byte_range(const std::string& text, const Value* start,
                                     const Value* end) {
  if ((!start || start->is_none()) && (!end || end->is_none())) return {0, text.size()};
  const auto offsets = code_point_offsets(text);
  const auto size = static_cast<int64_t>(offsets.size()) - 1;
  const auto bound = [&](const Value* value, int64_t missing) {
    int64_t at = integer_or(value, missing, "slice index");
    if (at < 0) at += size;
    return std::clamp<int64_t>(at, 0, size + 1);
  };
  const int64_t from = bound(start, 0);
  const int64_t to = std::min(bound(end, size), size);
  if (from > to) return {1, 0};
  return {offsets[static_cast<size_t>(from)], offsets[static_cast<size_t>(to)]};
}

Value affix(Interpreter&, const Value& self, const Arguments& arguments, bool prefix) {
  const auto given =
      match(arguments, prefix ? "startswith" : "endswith", {"prefix", "start", "end"}, 1);
  const auto [from, to] = byte_range(self.as_string(), given[1], given[2]);
  if (from > to) return Value(false);
  const std::string_view text = std::string_view(self.as_string()).substr(from, to - from);
  const auto matches = [&](const Value& wanted) {
    const std::string& part = need_string(wanted, prefix ? "startswith" : "endswith");
    return prefix ? text.starts_with(part) : text.ends_with(part);
  };
  if (given[0]->is_sequence() && given[0]->as_sequence().kind == SequenceKind::tuple) {
    const auto& items = given[0]->items();
    return Value(std::any_of(items.begin(), items.end(), matches));
  }
  return Value(matches(*given[0]));
}

Value replace(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "replace", {"old", "new", "count"}, 2);
  const std::string& old = need_string(*given[0], "replace");
  const std::string& fresh = need_string(*given[1], "replace");
  return like(in, self,
              replace_text(in, self.as_string(), old, fresh, integer_or(given[2], -1, "count")));
}

#define HEDDLE_METHOD(call)                                                     \
  [](Interpreter& in, const Value& self, const Arguments& arguments) -> Value { \
    (void)in;                                                                   \
    (void)self;                                                                 \
    (void)arguments;                                                            \
    return call;                                                                \
  }

constexpr NamedMethod kStringMethods[] = {
    {"strip", HEDDLE_METHOD(strip_with(in, self, arguments, true, true))},
    {"lstrip", HEDDLE_METHOD(strip_with(in, self, arguments, true, false))},
    {"rstrip", HEDDLE_METHOD(strip_with(in, self, arguments, false, true))},
    {"split", split},
    {"startswith", HEDDLE_METHOD(affix(in, self, arguments, true))},
    {"endswith", HEDDLE_METHOD(affix(in, self, arguments, false))},
    {"replace", replace},
    {"format", HEDDLE_METHOD(like(in, self, format_braces(in, self.as_string(), arguments)))},
    {"upper", convert<to_upper>},
    {"lower", convert<to_lower>},
    {"title", convert<to_title>},
    {"capitalize", convert<to_capital>},
};

Value get(Interpreter&, const Value& self, const Arguments& arguments) {
  if (!arguments.named.empty()) raise("get() takes no keyword arguments");
  const auto given = match(arguments, "get", {"key", "default"}, 1);
  if (!is_hashable(*given[0])) raise("unhashable type: '{}'", type_name(*given[0]));
  const Value* found = self.as_map().find(*given[0]);
  return found ? *found : given[1] ? *given[1] : Value(nullptr);
}

Value view(Interpreter& in, const Value& self, const Arguments& arguments, SequenceKind kind) {
  match(arguments, "view", {});
  std::vector<Value> items;
  items.reserve(self.as_map().entries.size());
  for (const auto& [key, value] : self.as_map().entries) {
    if (kind == SequenceKind::dict_keys) {
      items.push_back(key);
    } else if (kind == SequenceKind::dict_values) {
      items.push_back(value);
    } else {
      items.push_back(make_sequence(SequenceKind::tuple, {key, value}, in.budget()));
    }
  }
  return make_sequence(kind, std::move(items), in.budget());
}

constexpr NamedMethod kDictMethods[] = {
    {"get", get},
    {"items", HEDDLE_METHOD(view(in, self, arguments, SequenceKind::dict_items))},
    {"keys", HEDDLE_METHOD(view(in, self, arguments, SequenceKind::dict_keys))},
    {"values", HEDDLE_METHOD(view(in, self, arguments, SequenceKind::dict_values))},
};

constexpr std::array<std::string_view, 5> kDictChanges = {"clear", "pop", "popitem", "setdefault",
                                                          "update"};
constexpr std::array<std::string_view, 8> kListChanges = {"append", "clear",  "pop",    "reverse",
                                                          "insert", "remove", "extend", "sort"};

template <class Names>
bool is_one_of(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

template <size_t N>
std::optional<Value> bind(const NamedMethod (&table)[N], const Value& receiver,
                          const std::string& name) {
  for (const NamedMethod& entry : table) {
    if (entry.name != name) continue;
    return make_function(
        name, [self = receiver, call = entry.method](Interpreter& in, const Arguments& arguments) {
          return call(in, self, arguments);
        });
  }
  return std::nullopt;
}

}  // namespace

std::string replace_text(Interpreter& in, const std::string& text, const std::string& old,
                         const std::string& fresh, int64_t count) {
  std::string out;
  in.budget().use_steps(static_cast<int64_t>(text.size() >> 4));
  if (old.empty()) {  // between all code points
    for (size_t i = 0; i < text.size() && count != 0; --count) {
      const size_t begin = i;
      next_code_point(text, i);
      out += fresh;
      out.append(text, begin, i - begin);
      in.check_size(static_cast<int64_t>(out.size()));
      if (i == text.size() && count != 1) return out + fresh;
      if (count == 1) return out + text.substr(i);
    }
    return text.empty() && count != 0 ? fresh : out.empty() ? text : out;
  }
  size_t at = 0;
  for (; count != 0; --count) {
    const size_t found = find_text(text, old, at);
    if (found == std::string::npos) break;
    out.append(text, at, found - at);
    out += fresh;
    in.check_size(static_cast<int64_t>(out.size()));
    at = found + old.size();
  }
  return out.append(text, at);
}

std::optional<Value> method(const Value& receiver, const std::string& name) {
  if (receiver.is_string()) return bind(kStringMethods, receiver, name);
  if (receiver.is_map()) {
    if (is_one_of(kDictChanges, name)) {
      return Value::undefined(
          fmt::format("access to attribute '{}' of 'dict' object is unsafe.", name));
    }
    return bind(kDictMethods, receiver, name);
  }
  const bool list = receiver.is_list() && receiver.as_sequence().kind == SequenceKind::list;
  if (list && is_one_of(kListChanges, name)) {
    return Value::undefined(
        fmt::format("access to attribute '{}' of 'list' object is unsafe.", name));
  }
  return std::nullopt;
}

}  // namespace heddle::text::jinja
