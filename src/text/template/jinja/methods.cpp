// Methods of strings, dicts, lists and numbers.
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

Value split(Interpreter& in, const Value& self, const Arguments& arguments, bool from_right) {
  const auto given = match(arguments, "split", {"sep", "maxsplit"});
  int64_t left = integer_or(given[1], -1, "maxsplit");
  std::string_view text = self.as_string();
  std::vector<Value> parts;
  const auto add = [&](std::string_view part) {
    parts.push_back(like(in, self, std::string(part)));
  };
  if (!given[0] || given[0]->is_none()) {
    text = strip(text, !from_right, from_right);
    while (!text.empty()) {
      if (left-- == 0) {
        add(text);
        break;
      }
      size_t begin = 0, end = 0;  // of the whitespace that ends the next word
      const auto offsets_end = text.size();
      if (from_right) {
        size_t last_word = 0;
        bool after_space = true;
        for (size_t i = 0; i < offsets_end;) {
          const size_t at = i;
          const bool space = is_space(next_code_point(text, i));
          if (!space && after_space) last_word = at;
          after_space = space;
        }
        in.budget().use_steps(static_cast<int64_t>(text.size() >> 4));
        add(text.substr(last_word));
        text = strip(text.substr(0, last_word), false, true);
        continue;
      }
      while (begin < offsets_end) {
        end = begin;
        if (is_space(next_code_point(text, end))) break;
        begin = end;
      }
      add(text.substr(0, begin));
      text = strip(text.substr(begin), true, false);
    }
  } else {
    const std::string& separator = need_string(*given[0], "split");
    if (separator.empty()) raise("empty separator");
    while (left-- != 0) {
      if (from_right) in.budget().use_steps(static_cast<int64_t>(text.size() >> 3));
      const size_t at = from_right ? find_last_text(text, separator) : find_text(text, separator);
      if (at == std::string_view::npos) break;
      add(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
      text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
    }
    add(text);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return in.list(std::move(parts));
}

Value split_in_lines(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "splitlines", {"keepends"});
  std::vector<Value> lines;
  for (const auto line : split_lines(self.as_string(), given[0] && truthy(*given[0]))) {
    lines.push_back(like(in, self, std::string(line)));
  }
  return in.list(std::move(lines));
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

// Position of a code point sequence, or -1.
int64_t position(Interpreter& in, const Value& self, const Arguments& arguments, bool last) {
  const auto given = match(arguments, "find", {"sub", "start", "end"}, 1);
  const std::string& text = self.as_string();
  const std::string& wanted = need_string(*given[0], "find");
  in.budget().use_steps(static_cast<int64_t>(text.size() >> 4));
  const auto [from, to] = byte_range(text, given[1], given[2]);
  if (from > to) return -1;
  const std::string_view range = std::string_view(text).substr(from, to - from);
  const size_t at = last ? find_last_text(range, wanted) : find_text(range, wanted);
  if (at == std::string_view::npos) return -1;
  return code_point_count(std::string_view(text).substr(0, from + at));
}

Value index_of(Interpreter& in, const Value& self, const Arguments& arguments, bool last) {
  const int64_t at = position(in, self, arguments, last);
  if (at < 0) raise("substring not found");
  return Value(at);
}

Value count_text(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "count", {"sub", "start", "end"}, 1);
  const std::string& wanted = need_string(*given[0], "count");
  in.budget().use_steps(static_cast<int64_t>(self.as_string().size() >> 4));
  const auto [from, to] = byte_range(self.as_string(), given[1], given[2]);
  if (from > to) return Value(0);
  const std::string_view text = std::string_view(self.as_string()).substr(from, to - from);
  if (wanted.empty()) return Value(code_point_count(text) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = find_text(text, wanted, at)) != std::string_view::npos; ++count) {
    at += wanted.size();
  }
  return Value(count);
}

Value replace(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "replace", {"old", "new", "count"}, 2);
  const std::string& old = need_string(*given[0], "replace");
  const std::string& fresh = need_string(*given[1], "replace");
  return like(in, self,
              replace_text(in, self.as_string(), old, fresh, integer_or(given[2], -1, "count")));
}

Value join(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "join", {"iterable"}, 1);
  const auto items = in.iterate(*given[0]);
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    if (i) out += self.as_string();
    const std::string& text = need_string(items->items[i], "join");
    out += self.is_markup() && !items->items[i].is_markup() ? escape_html(text) : text;
    in.check_size(static_cast<int64_t>(out.size()));
  }
  return like(in, self, std::move(out));
}

Value partition(Interpreter& in, const Value& self, const Arguments& arguments, bool last) {
  const auto given = match(arguments, "partition", {"sep"}, 1);
  const std::string& separator = need_string(*given[0], "partition");
  if (separator.empty()) raise("empty separator");
  const std::string& text = self.as_string();
  const size_t at = last ? find_last_text(text, separator) : find_text(text, separator);
  std::vector<Value> parts(3, like(in, self, ""));
  if (at == std::string::npos) {
    parts[last ? 2 : 0] = self;
  } else {
    parts[0] = like(in, self, text.substr(0, at));
    parts[1] = *given[0];
    parts[2] = like(in, self, text.substr(at + separator.size()));
  }
  return make_sequence(SequenceKind::tuple, std::move(parts), in.budget());
}

Value justify(Interpreter& in, const Value& self, const Arguments& arguments, char side) {
  const auto given = match(arguments, "justify", {"width", "fillchar"}, 1);
  const std::string fill = given[1] ? need_string(*given[1], "fillchar") : " ";
  if (code_point_count(fill) != 1) raise("The fill character must be exactly one character long");
  const int64_t width = to_integer(*given[0], "width");
  in.check_size(width);
  const int64_t missing = std::max<int64_t>(width - code_point_count(self.as_string()), 0);
  // str.center puts the odd blank on the left only if the width is odd.
  const int64_t left = side == '<'   ? 0
                       : side == '>' ? missing
                                     : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.as_string();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return like(in, self, std::move(out));
}

Value zero_fill(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "zfill", {"width"}, 1);
  const int64_t width = to_integer(*given[0], "width");
  in.check_size(width);
  std::string text = self.as_string();
  const int64_t missing = width - code_point_count(text);
  const bool sign = !text.empty() && (text[0] == '+' || text[0] == '-');
  if (missing > 0) text.insert(sign ? 1 : 0, std::string(static_cast<size_t>(missing), '0'));
  return like(in, self, std::move(text));
}

Value without_affix(Interpreter& in, const Value& self, const Arguments& arguments, bool prefix) {
  const auto given = match(arguments, "removeprefix", {"affix"}, 1);
  const std::string& part = need_string(*given[0], "removeprefix");
  std::string_view text = self.as_string();
  if (prefix && text.starts_with(part)) text.remove_prefix(part.size());
  if (!prefix && text.ends_with(part)) text.remove_suffix(part.size());
  return like(in, self, std::string(text));
}

Value expand_tabs(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "expandtabs", {"tabsize"});
  const int64_t size = integer_or(given[0], 8, "tabsize");
  in.check_size(size);
  std::string out;
  int64_t column = 0;
  const std::string& text = self.as_string();
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = next_code_point(text, i);
    if (c == '\t') {
      const int64_t blanks = size > 0 ? size - column % size : 0;
      out.append(static_cast<size_t>(blanks), ' ');
      column += blanks;
      in.check_size(static_cast<int64_t>(out.size()));
    } else {
      out.append(text, begin, i - begin);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
  }
  return like(in, self, std::move(out));
}

// True if there is a code point and `holds` for all.
template <class Holds>
Value all_of(const Value& self, const Holds& holds) {
  const std::string& text = self.as_string();
  if (text.empty()) return Value(false);
  for (size_t i = 0; i < text.size();) {
    if (!holds(next_code_point(text, i))) return Value(false);
  }
  return Value(true);
}

// islower and isupper: some cased character, and none of the other case.
Value has_case(const Value& self, bool upper) {
  bool some = false;
  for (size_t i = 0; i < self.as_string().size();) {
    const char32_t c = next_code_point(self.as_string(), i);
    if (is_title(c) || (upper ? is_lower(c) : is_upper(c))) return Value(false);
    some |= upper ? is_upper(c) : is_lower(c);
  }
  return Value(some);
}

Value is_title_cased(const Value& self) {
  bool some = false, after_cased = false;
  for (size_t i = 0; i < self.as_string().size();) {
    const char32_t c = next_code_point(self.as_string(), i);
    const bool capital = is_upper(c) || is_title(c);
    if (capital ? after_cased : (is_lower(c) && !after_cased)) return Value(false);
    after_cased = capital || is_lower(c);
    some |= after_cased;
  }
  return Value(some);
}

bool is_identifier(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = next_code_point(text, i);
    if (c != '_' && !is_alpha(c) && (first || !is_alnum(c))) return false;
  }
  return !text.empty();
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
    {"split", HEDDLE_METHOD(split(in, self, arguments, false))},
    {"rsplit", HEDDLE_METHOD(split(in, self, arguments, true))},
    {"splitlines", split_in_lines},
    {"startswith", HEDDLE_METHOD(affix(in, self, arguments, true))},
    {"endswith", HEDDLE_METHOD(affix(in, self, arguments, false))},
    {"replace", replace},
    {"join", join},
    {"format", HEDDLE_METHOD(like(in, self, format_braces(in, self.as_string(), arguments)))},
    {"upper", convert<to_upper>},
    {"lower", convert<to_lower>},
    {"title", convert<to_title>},
    {"capitalize", convert<to_capital>},
    {"swapcase", convert<swap_case>},
    {"casefold", convert<to_lower>},
    {"find", HEDDLE_METHOD(Value(position(in, self, arguments, false)))},
    {"rfind", HEDDLE_METHOD(Value(position(in, self, arguments, true)))},
    {"index", HEDDLE_METHOD(index_of(in, self, arguments, false))},
    {"rindex", HEDDLE_METHOD(index_of(in, self, arguments, true))},
    {"count", count_text},
    {"partition", HEDDLE_METHOD(partition(in, self, arguments, false))},
    {"rpartition", HEDDLE_METHOD(partition(in, self, arguments, true))},
    {"ljust", HEDDLE_METHOD(justify(in, self, arguments, '<'))},
    {"rjust", HEDDLE_METHOD(justify(in, self, arguments, '>'))},
    {"center", HEDDLE_METHOD(justify(in, self, arguments, '^'))},
    {"zfill", zero_fill},
    {"removeprefix", HEDDLE_METHOD(without_affix(in, self, arguments, true))},
    {"removesuffix", HEDDLE_METHOD(without_affix(in, self, arguments, false))},
    {"expandtabs", expand_tabs},
    {"isalpha", HEDDLE_METHOD(all_of(self, is_alpha))},
    {"isalnum", HEDDLE_METHOD(all_of(self, is_alnum))},
    {"isdigit", HEDDLE_METHOD(all_of(self, is_decimal))},
    {"isdecimal", HEDDLE_METHOD(all_of(self, is_decimal))},
    {"isnumeric",
     HEDDLE_METHOD(all_of(self, [](char32_t c) { return is_alnum(c) && !is_alpha(c); }))},
    {"isspace", HEDDLE_METHOD(all_of(self, is_space))},
    {"isascii", HEDDLE_METHOD(Value(is_ascii(self.as_string())))},
    {"isprintable",
     HEDDLE_METHOD(Value(self.as_string().empty() || all_of(self, is_printable).as_bool()))},
    {"isidentifier", HEDDLE_METHOD(Value(is_identifier(self.as_string())))},
    {"isupper", HEDDLE_METHOD(has_case(self, true))},
    {"islower", HEDDLE_METHOD(has_case(self, false))},
    {"istitle", HEDDLE_METHOD(is_title_cased(self))},
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
    {"copy", HEDDLE_METHOD((match(arguments, "copy", {}), self))},
};

Value list_count(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "count", {"value"}, 1);
  return Value(static_cast<int64_t>(
      std::count_if(self.items().begin(), self.items().end(),
                    [&](const Value& item) { return in.equals(item, *given[0]); })));
}

Value list_index(Interpreter& in, const Value& self, const Arguments& arguments) {
  const auto given = match(arguments, "index", {"value", "start", "stop"}, 1);
  const auto size = static_cast<int64_t>(self.items().size());
  const auto bound = [&](const Value* value, int64_t missing) {
    const int64_t at = integer_or(value, missing, "index");
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  const int64_t stop = bound(given[2], size);
  for (int64_t i = bound(given[1], 0); i < stop; ++i) {
    if (in.equals(self.items()[static_cast<size_t>(i)], *given[0])) return Value(i);
  }
  raise("value is not in list");
}

constexpr NamedMethod kListMethods[] = {
    {"count", list_count},
    {"index", list_index},
};
constexpr NamedMethod kCopy[] = {
    {"copy", HEDDLE_METHOD((match(arguments, "copy", {}), self))},
};
constexpr NamedMethod kFloatMethods[] = {
    {"is_integer", HEDDLE_METHOD(Value(std::floor(self.as_double()) == self.as_double()))},
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
  if (receiver.is_double()) return bind(kFloatMethods, receiver, name);
  if (receiver.is_map()) {
    if (is_one_of(kDictChanges, name)) {
      return Value::undefined(
          fmt::format("access to attribute '{}' of 'dict' object is unsafe.", name));
    }
    return bind(kDictMethods, receiver, name);
  }
  if (!receiver.is_list()) return std::nullopt;
  if (receiver.as_sequence().kind == SequenceKind::list) {
    if (is_one_of(kListChanges, name)) {
      return Value::undefined(
          fmt::format("access to attribute '{}' of 'list' object is unsafe.", name));
    }
    if (name == "copy") return bind(kCopy, receiver, name);
  }
  return bind(kListMethods, receiver, name);
}

}  // namespace heddle::text::jinja
