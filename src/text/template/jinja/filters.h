#pragma once
// Filters and tests by name, and how they and methods take their arguments. Internal to
// text/template.
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template/jinja/ast.h"
#include "text/template/value.h"

namespace heddle::text::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments matched to parameter names: position i of the result is what was given for names[i], or
// null. Raises what Python would: too many, unknown name, given twice, or fewer than `required`.
std::vector<const Value*> match(const Arguments& arguments, std::string_view function,
                                std::initializer_list<std::string_view> names, size_t required = 0);

Filter find_filter(std::string_view name);  // null if there is none
Test find_test(std::string_view name);      // null if there is none

}  // namespace heddle::text::jinja
