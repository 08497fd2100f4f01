// Tests: what may stand after `is`.
#include <array>

#include "text/template/jinja/filters.h"
#include "text/template/jinja/interpreter.h"

namespace heddle::text::jinja {
namespace {

struct NamedTest {
  std::string_view name;
  Test test;
};

template <bool (*Holds)(const Value&)>
bool plain(Interpreter&, const Value& input, const Arguments& arguments) {
  match(arguments, "test", {});
  return Holds(input);
}

bool is_defined(const Value& value) { return !value.is_undefined(); }
bool is_undefined(const Value& value) { return value.is_undefined(); }
bool is_none(const Value& value) { return value.is_none(); }
bool is_boolean(const Value& value) { return value.is_bool(); }
bool is_true(const Value& value) { return value.is_bool() && value.as_bool(); }
bool is_false(const Value& value) { return value.is_bool() && !value.as_bool(); }
bool is_integer(const Value& value) { return value.is_int() || value.is_big_integer(); }
bool is_float(const Value& value) { return value.is_double(); }
bool is_number(const Value& value) { return value.is_number(); }
bool is_string(const Value& value) { return value.is_string(); }
bool is_mapping(const Value& value) { return value.is_map(); }

bool is_sequence(const Value& value) {
  // Jinja's Undefined has a length of 0 and a __getitem__.
  if (value.is_string() || value.is_map() || value.is_list() || value.is_undefined()) return true;
  return value.is_sequence() && value.as_sequence().kind == SequenceKind::range;
}

bool is_iterable(const Value& value) {
  return value.is_string() || value.is_map() || value.is_sequence() || value.is_undefined();
}

bool equals(Interpreter& in, const Value& input, const Arguments& arguments) {
  return in.equals(input, *match(arguments, "eq", {"other"}, 1)[0]);
}
bool differs(Interpreter& in, const Value& input, const Arguments& arguments) {
  return !in.equals(input, *match(arguments, "ne", {"other"}, 1)[0]);
}
bool is_in(Interpreter& in, const Value& input, const Arguments& arguments) {
  return in.contains(*match(arguments, "in", {"seq"}, 1)[0], input);
}

template <int sign, bool or_equal>
bool ordered(Interpreter& in, const Value& input, const Arguments& arguments) {
  bool unordered = false;
  const int order =
      compare(input, *match(arguments, "comparison", {"other"}, 1)[0], in.budget(), &unordered);
  if (unordered) return false;
  return order == 0 ? or_equal : (order < 0) == (sign < 0);
}

constexpr std::array kTests = {
    NamedTest{"!=", differs},
    NamedTest{"<", ordered<-1, false>},
    NamedTest{"<=", ordered<-1, true>},
    NamedTest{"==", equals},
    NamedTest{">", ordered<1, false>},
    NamedTest{">=", ordered<1, true>},
    NamedTest{"boolean", plain<is_boolean>},
    NamedTest{"defined", plain<is_defined>},
    NamedTest{"eq", equals},
    NamedTest{"equalto", equals},
    NamedTest{"false", plain<is_false>},
    NamedTest{"float", plain<is_float>},
    NamedTest{"ge", ordered<1, true>},
    NamedTest{"greaterthan", ordered<1, false>},
    NamedTest{"gt", ordered<1, false>},
    NamedTest{"in", is_in},
    NamedTest{"integer", plain<is_integer>},
    NamedTest{"iterable", plain<is_iterable>},
    NamedTest{"le", ordered<-1, true>},
    NamedTest{"lessthan", ordered<-1, false>},
    NamedTest{"lt", ordered<-1, false>},
    NamedTest{"mapping", plain<is_mapping>},
    NamedTest{"ne", differs},
    NamedTest{"none", plain<is_none>},
    NamedTest{"number", plain<is_number>},
    NamedTest{"sequence", plain<is_sequence>},
    NamedTest{"string", plain<is_string>},
    NamedTest{"true", plain<is_true>},
    NamedTest{"undefined", plain<is_undefined>},
};

}  // namespace

Test find_test(std::string_view name) {
  for (const NamedTest& entry : kTests) {
    if (entry.name == name) return entry.test;
  }
  return nullptr;
}

}  // namespace heddle::text::jinja
