// Filters that take or make sequences.
#include <algorithm>
#include <functional>
#include <unordered_set>

#include "text/template/jinja/filter_table.h"
#include "text/template/jinja/interpreter.h"
#include "text/template/python_string.h"

namespace heddle::text::jinja {
namespace {

using Getter = std::function<Value(const Value&)>;

Value iterator(Interpreter& in, std::vector<Value> items) {
  return make_sequence(SequenceKind::iterator, std::move(items), in.budget());
}

Value lowered(Interpreter& in, const Value& value) {
  return value.is_string() ? in.string(to_lower(value.as_string())) : value;
}

// The path `a.b.0` of an attribute argument, applied one part after the other.
Getter attribute_getter(Interpreter& in, const Value& attribute, const Value& missing = Value()) {
  std::vector<Value> parts;
  if (attribute.is_string()) {
    std::string_view rest = attribute.as_string();
    while (true) {
      const size_t dot = std::min(rest.find('.'), rest.size());
      const std::string_view part = rest.substr(0, dot);
      const bool digits = !part.empty() && part.size() < 18 &&
                          part.find_first_not_of("0123456789") == std::string_view::npos;
      parts.push_back(digits ? Value(static_cast<int64_t>(std::stoll(std::string(part))))
                             : Value(part));
      if (dot == rest.size()) break;
      rest.remove_prefix(dot + 1);
    }
  } else if (!attribute.is_none() && !attribute.is_undefined()) {
    parts.push_back(attribute);
  }
  return [&in, parts = std::move(parts), missing](const Value& item) {
    Value value = item;
    for (const Value& part : parts) {
      value = in.item(value, part);
      if (value.is_undefined() && !missing.is_undefined() && !missing.is_none()) value = missing;
    }
    return value;
  };
}

bool flag(const Value* value) { return value && truthy(*value); }

Value first(Interpreter& in, const Value& input, const Arguments& arguments) {
  match(arguments, "first", {});
  const auto items = in.iterate(input);
  return items->items.empty() ? Value::undefined("No first item, sequence was empty.")
                              : items->items.front();
}

Value last(Interpreter& in, const Value& input, const Arguments& arguments) {
  match(arguments, "last", {});
  if (input.is_sequence() && input.as_sequence().kind == SequenceKind::iterator) {
    raise("'generator' object is not reversible");
  }
  const auto items = in.iterate(input);
  return items->items.empty() ? Value::undefined("No last item, sequence was empty.")
                              : items->items.back();
}

Value length(Interpreter&, const Value& input, const Arguments& arguments) {
  match(arguments, "length", {});
  if (input.is_string()) return Value(code_point_count(input.as_string()));
  if (input.is_map()) return Value(static_cast<int64_t>(input.as_map().entries.size()));
  if (input.is_undefined()) return Value(0);
  if (input.is_sequence() && input.as_sequence().kind != SequenceKind::iterator) {
    return Value(static_cast<int64_t>(input.items().size()));
  }
  raise("object of type '{}' has no len()", type_name(input));
}

Value list(Interpreter& in, const Value& input, const Arguments& arguments) {
  match(arguments, "list", {});
  return in.list(in.iterate(input)->items);
}

Value items(Interpreter& in, const Value& input, const Arguments& arguments) {
  match(arguments, "items", {});
  if (input.is_undefined()) return iterator(in, {});
  if (!input.is_map()) raise("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  for (const auto& [key, value] : input.as_map().entries) {
    pairs.push_back(make_sequence(SequenceKind::tuple, {key, value}, in.budget()));
  }
  return iterator(in, std::move(pairs));
}

Value join(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "join", {"d", "attribute"});
  const std::string separator = given[0] ? in.text_of(*given[0]) : "";
  const bool by_attribute = given[1] && !given[1]->is_none();
  const Getter getter = attribute_getter(in, by_attribute ? *given[1] : Value());
  std::string out;
  bool is_first = true;
  for (const auto source = in.iterate(input); const Value& item : source->items) {
    if (!is_first) out += separator;
    is_first = false;
    out += in.text_of(by_attribute ? getter(item) : item);
    in.check_size(static_cast<int64_t>(out.size()));
  }
  return in.string(std::move(out));
}

// Sorted by keys, stably; `reverse` keeps the order of equal ones too.
std::vector<Value> sorted(Interpreter& in, const std::vector<Value>& values,
                          const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto less = [&](size_t a, size_t b) {
    bool unordered = false;
    const int sign = compare(keys[a], keys[b], in.budget(), &unordered);
    return !unordered && (reverse ? sign > 0 : sign < 0);
  };
  if (order.size() == 1) order.assign(1, 0);
  std::stable_sort(order.begin(), order.end(), less);
  std::vector<Value> out;
  out.reserve(values.size());
  for (const size_t i : order) out.push_back(values[i]);
  return out;
}

Value sort(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "sort", {"reverse", "case_sensitive", "attribute"});
  const bool sensitive = flag(given[1]);
  std::vector<Getter> getters;
  if (given[2] && given[2]->is_string()) {
    std::string_view rest = given[2]->as_string();
    while (true) {
      const size_t comma = std::min(rest.find(','), rest.size());
      getters.push_back(attribute_getter(in, Value(rest.substr(0, comma))));
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    getters.push_back(attribute_getter(in, given[2] ? *given[2] : Value()));
  }
  const auto source = in.iterate(input);
  std::vector<Value> keys;
  for (const Value& item : source->items) {
    std::vector<Value> parts;
    for (const Getter& getter : getters) {
      const Value part = getter(item);
      parts.push_back(sensitive ? part : lowered(in, part));
    }
    keys.push_back(in.list(std::move(parts)));
  }
  return in.list(sorted(in, source->items, keys, flag(given[0])));
}

Value dict_sort(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "dictsort", {"case_sensitive", "by", "reverse"});
  const std::string by = given[1] ? in.text_of(*given[1]) : "key";
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  if (input.is_undefined()) raise("{}", input.undefined_message());
  if (!input.is_map()) raise("'{} object' has no attribute 'items'", type_name(input));
  std::vector<Value> pairs, keys;
  for (const auto& [key, value] : input.as_map().entries) {
    pairs.push_back(make_sequence(SequenceKind::tuple, {key, value}, in.budget()));
    const Value& sort_key = by == "key" ? key : value;
    keys.push_back(flag(given[0]) ? sort_key : lowered(in, sort_key));
  }
  return in.list(sorted(in, pairs, keys, flag(given[2])));
}

Value unique(Interpreter& in, const Value& input, const Arguments& arguments) {
  const auto given = match(arguments, "unique", {"case_sensitive", "attribute"});
  const Getter getter = attribute_getter(in, given[1] ? *given[1] : Value());
  std::unordered_set<std::string> seen;
  std::vector<Value> out;
  for (const auto source = in.iterate(input); const Value& item : source->items) {
    Value key = getter(item);
    if (!flag(given[0])) key = lowered(in, key);
    std::string hash = hash_key(key);
    if (hash.empty()) raise("unhashable type: '{}'", type_name(key));
    in.budget().use_bytes(static_cast<int64_t>(hash.size()));
    if (seen.insert(std::move(hash)).second) out.push_back(item);
  }
  return iterator(in, std::move(out));
}

Value extreme(Interpreter& in, const Value& input, const Arguments& arguments, bool largest) {
  const auto given = match(arguments, "min", {"case_sensitive", "attribute"});
  const Getter getter = attribute_getter(in, given[1] ? *given[1] : Value());
  const auto source = in.iterate(input);
  if (source->items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const auto key_of = [&](const Value& item) {
    const Value key = getter(item);
    return flag(given[0]) ? key : lowered(in, key);
  };
  const Value* best = &source->items[0];
  Value best_key = key_of(*best);
  for (size_t i = 1; i < source->items.size(); ++i) {
    Value key = key_of(source->items[i]);
    bool unordered = false;
    const int sign = compare(key, best_key, in.budget(), &unordered);
    if (unordered || (largest ? sign <= 0 : sign >= 0)) continue;
    best = &source->items[i];
    best_key = std::move(key);
  }
  return *best;
}

Value smallest(Interpreter& in, const Value& input, const Arguments& arguments) {
  return extreme(in, input, arguments, false);
}
Value largest(Interpreter& in, const Value& input, const Arguments& arguments) {
  return extreme(in, input, arguments, true);
}

Value map(Interpreter& in, const Value& input, const Arguments& arguments) {
  if (!truthy(input)) return iterator(in, {});
  std::vector<Value> out;
  if (arguments.positional.empty()) {
    const Value *attribute = nullptr, *missing = nullptr;
    for (const auto& [name, value] : arguments.named) {
      if (name == "attribute")
        attribute = &value;
      else if (name == "default")
        missing = &value;
      else
        raise("Unexpected keyword argument '{}'", name);
    }
    if (!attribute) raise("map requires a filter argument");
    const Getter getter = attribute_getter(in, *attribute, missing ? *missing : Value());
    for (const auto source = in.iterate(input); const Value& item : source->items)
      out.push_back(getter(item));
    return iterator(in, std::move(out));
  }
  const std::string name = in.text_of(arguments.positional[0]);
  const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()},
                       arguments.named};
  for (const auto source = in.iterate(input); const Value& item : source->items)
    out.push_back(in.call_filter(name, item, rest));
  return iterator(in, std::move(out));
}

Value pick(Interpreter& in, const Value& input, const Arguments& arguments, bool keep,
           bool by_attribute) {
  if (!truthy(input)) return iterator(in, {});
  if (by_attribute && arguments.positional.empty()) raise("Missing parameter for attribute name");
  const size_t skip = by_attribute ? 1 : 0;
  const Getter getter = attribute_getter(in, by_attribute ? arguments.positional[0] : Value());
  const bool has_test = arguments.positional.size() > skip;
  const std::string test = has_test ? in.text_of(arguments.positional[skip]) : "";
  Arguments rest;
  if (has_test) {
    rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(skip) + 1,
                           arguments.positional.end());
    rest.named = arguments.named;
  }
  std::vector<Value> out;
  for (const auto source = in.iterate(input); const Value& item : source->items) {
    const Value value = getter(item);
    const bool holds = has_test ? in.call_test(test, value, rest) : truthy(value);
    if (holds == keep) out.push_back(item);
  }
  return iterator(in, std::move(out));
}

template <bool keep, bool by_attribute>
Value pick_filter(Interpreter& in, const Value& input, const Arguments& arguments) {
  return pick(in, input, arguments, keep, by_attribute);
}

}  // namespace

std::span<const NamedFilter> sequence_filters() {
  static constexpr NamedFilter kFilters[] = {
      {"count", length},
      {"dictsort", dict_sort},
      {"first", first},
      {"items", items},
      {"join", join},
      {"last", last},
      {"length", length},
      {"list", list},
      {"map", map},
      {"max", largest},
      {"min", smallest},
      {"reject", pick_filter<false, false>},
      {"rejectattr", pick_filter<false, true>},
      {"select", pick_filter<true, false>},
      {"selectattr", pick_filter<true, true>},
      {"sort", sort},
      {"unique", unique},
  };
  return kFilters;
}

}  // namespace heddle::text::jinja
