#pragma once
// Jinja source to a syntax tree, and the check that every filter and test exists. Internal to
// text/template.
#include <string_view>

#include "text/template/jinja/ast.h"

namespace heddle::text::jinja {

// Nesting of statements and of expressions that a template may have; real ones stay below 30.
inline constexpr int kMaxTemplateDepth = 200;

// Raises PythonError with the line on what Jinja refuses when it compiles.
Body parse_template(std::string_view source);

}  // namespace heddle::text::jinja
