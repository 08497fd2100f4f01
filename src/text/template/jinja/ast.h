#pragma once
// The syntax tree of a template. Built by jinja_parser, read by the interpreter; immutable once
// built, so several threads may render it. Internal to text/template.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/template/value.h"

namespace heddle::text::jinja {

struct Arguments;
class Interpreter;
using Filter = Value (*)(Interpreter&, const Value& input, const Arguments&);
using Test = bool (*)(Interpreter&, const Value& input, const Arguments&);

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind : uint8_t {
  constant,             // value
  name,                 // name
  tuple,                // parts
  list,                 // parts
  dict,                 // parts: key, value, key, value, ...
  attribute,            // parts[0].name
  item,                 // parts[0][parts[1]]
  slice,                // parts[0][parts[1]:parts[2]:parts[3]], the last three may be null
  call,                 // parts[0](arguments)
  filter,               // parts[0] | name(arguments); parts[0] null: the text of a filter block
  test,                 // parts[0] is name(arguments)
  negate,               // not parts[0]
  minus,                // -parts[0]
  plus,                 // +parts[0]
  both,                 // parts[0] and parts[1]
  either,               // parts[0] or parts[1]
  binary,               // parts[0] name parts[1]: + - * / // % **
  concat,               // parts joined as text
  compare,              // parts[0] operators[0] parts[1] operators[1] parts[2] ...
  condition,            // parts[1] if parts[0] else parts[2]; parts[2] may be null
  namespace_attribute,  // assignment target name.attribute_name
};

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr more_positional;  // *args
  ExpressionPtr more_named;       // **kwargs
};

struct Expression {
  ExpressionKind kind = ExpressionKind::constant;
  int line = 1;
  int depth = 1;  // nodes on the longest way down
  std::string name;
  std::string attribute_name;
  Value value;
  std::vector<ExpressionPtr> parts;
  std::vector<std::string> operators;
  CallArguments arguments;
  Filter filter = nullptr;  // of a known filter
  Test test = nullptr;      // of a known test
};

enum class StatementKind : uint8_t {
  text,          // text
  output,        // value
  set,           // target = value
  set_block,     // target = body, through value (a chain of filters) if given
  if_else,       // branches, else_body
  for_loop,      // target in value [if condition] body, else_body
  macro,         // macro
  call_block,    // value (a call) with the caller `macro`
  filter_block,  // value: chain of filters over body
  with,          // assignments, body
  scope,         // body in a scope of its own ({% generation %})
  break_loop,
  continue_loop,
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct MacroDefinition {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  Body body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Statement {
  StatementKind kind = StatementKind::text;
  int line = 1;
  std::string text;
  ExpressionPtr target;
  ExpressionPtr value;
  ExpressionPtr condition;
  bool recursive = false;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;
  Body body;
  Body else_body;
  std::unique_ptr<MacroDefinition> macro;
};

}  // namespace heddle::text::jinja
