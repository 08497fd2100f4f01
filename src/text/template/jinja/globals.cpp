// The functions that a template finds without being given them.
#include <algorithm>

#include "text/template/jinja/interpreter.h"

namespace heddle::text::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as in Jinja's sandbox

Value make_range(Interpreter& in, const Arguments& arguments) {
  const auto given = match(arguments, "range", {"start", "stop", "step"}, 1);
  int64_t start = to_integer(*given[0], "range argument"), stop = 0, step = 1;
  if (given[1]) {
    stop = to_integer(*given[1], "range argument");
  } else {
    stop = std::exchange(start, 0);
  }
  if (given[2]) step = to_integer(*given[2], "range argument");
  if (step == 0) raise("range() arg 3 must not be zero");
  const __int128 span =
      step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 count = span <= 0 ? 0 : (span + stride - 1) / stride;
  if (count > kMaxRange)
    raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange);
  in.budget().use_bytes(static_cast<int64_t>(count) * static_cast<int64_t>(sizeof(Value)));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) items.emplace_back(start + i * step);
  return Value::range(start, stop, step, std::move(items));
}

// Entries of namespace(...): of a mapping or of pairs, then the named ones.
std::vector<std::pair<Value, Value>> entries_of(Interpreter& in, const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) raise("dict expected at most 1 argument");
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is_map()) {
      entries = source.as_map().entries;
    } else {
      for (const auto pairs = in.iterate(source); const Value& pair : pairs->items) {
        const auto items = in.iterate(pair);
        if (items->items.size() != 2) raise("dictionary update sequence element has no length 2");
        entries.emplace_back(items->items[0], items->items[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) entries.emplace_back(Value(name), value);
  return entries;
}

Value make_namespace_value(Interpreter& in, const Arguments& arguments) {
  const Value map = make_map(entries_of(in, arguments), in.budget());
  auto space = in.make_namespace();
  for (const auto& [key, value] : map.as_map().entries) {
    if (!key.is_string()) continue;  // never readable as an attribute
    if (key.as_string().starts_with('_')) {
      raise("a namespace cannot store the underscore-prefixed attribute '{}'", key.as_string());
    }
    space->attributes.emplace_back(key.as_string(), value);
  }
  return Value(std::shared_ptr<Object>(std::move(space)));
}

Value raise_exception(Interpreter& in, const Arguments& arguments) {
  const auto given = match(arguments, "raise_exception", {"message"}, 1);
  raise("{}", in.text_of(*given[0]));
}

// strftime of the C locale; Python adds %f, and leaves the time zone of a naive time empty.
Value strftime_now(Interpreter& in, const Arguments& arguments) {
  const auto given = match(arguments, "strftime_now", {"format"}, 1);
  if (!given[0]->is_string())
    raise("strftime() argument 1 must be str, not {}", type_name(*given[0]));
  const std::string& format = given[0]->as_string();
  if (format.size() > 1000 || format.find('\0') != std::string::npos)
    raise("strftime_now: bad format");
  std::tm now{};
  if (in.now()) {
    now = *in.now();
  } else {
    const std::time_t seconds = std::time(nullptr);
    localtime_r(&seconds, &now);
  }
  std::string plain;
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    const char kind = c == '%' && i + 1 < format.size() ? format[i + 1] : '\0';
    if (kind == '\0') {
      plain += c;
      continue;
    }
    ++i;
    if (kind == 'f') {
      plain += "000000";
    } else if (kind != 'z' && kind != 'Z') {
      plain += '%';
      plain += kind;
    }
  }
  if (plain.empty()) return Value("");
  std::string out(plain.size() * 32 + 256, '\0');
  out.resize(std::strftime(out.data(), out.size(), plain.c_str(), &now));
  return in.string(std::move(out));
}

}  // namespace

std::vector<const Value*> match(const Arguments& arguments, std::string_view function,
                                std::initializer_list<std::string_view> names, size_t required) {
  std::vector<const Value*> out(names.size(), nullptr);
  if (arguments.positional.size() > names.size()) {
    raise("{}() takes at most {} arguments ({} given)", function, names.size(),
          arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) out[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto place = std::find(names.begin(), names.end(), name);
    if (place == names.end()) {
      raise("{}() got an unexpected keyword argument '{}'", function, name);
    }
    const auto at = static_cast<size_t>(place - names.begin());
    if (out[at]) raise("{}() got multiple values for argument '{}'", function, name);
    out[at] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!out[i]) raise("{}() missing required argument: '{}'", function, *(names.begin() + i));
  }
  return out;
}

Value make_function(std::string name, std::function<Value(Interpreter&, const Arguments&)> call) {
  auto function = std::make_shared<FunctionObject>();
  function->name = std::move(name);
  function->call = std::move(call);
  return Value(std::shared_ptr<Object>(std::move(function)));
}

std::unordered_map<std::string, Value> make_globals() {
  return {
      {"range", make_function("range", make_range)},
      {"namespace", make_function("namespace", make_namespace_value)},
      {"raise_exception", make_function("raise_exception", raise_exception)},
      {"strftime_now", make_function("strftime_now", strftime_now)},
  };
}

}  // namespace heddle::text::jinja
