#pragma once
// The filters each file offers. Internal to src/text.
#include <span>
#include <string_view>

#include "text/jinja_ast.h"

namespace heddle::text {

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

std::span<const NamedFilter> value_filters();     // jinja_filters.cpp
std::span<const NamedFilter> sequence_filters();  // jinja_sequence_filters.cpp

}  // namespace heddle::text
