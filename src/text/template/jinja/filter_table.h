#pragma once
// The filters each file offers. Internal to text/template.
#include <span>
#include <string_view>

#include "text/template/jinja/ast.h"

namespace heddle::text::jinja {

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

std::span<const NamedFilter> value_filters();     // filters.cpp
std::span<const NamedFilter> sequence_filters();  // sequence_filters.cpp

}  // namespace heddle::text::jinja
