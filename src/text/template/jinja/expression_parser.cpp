#include "text/template/jinja/expression_parser.h"

#include <algorithm>
#include <array>

#include "text/template/jinja/parser.h"
#include "text/template/value_python.h"

namespace heddle::text::jinja {
namespace {

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::data:
      return "template text";
    case TokenKind::block_begin:
      return "'{%'";
    case TokenKind::block_end:
      return "'%}'";
    case TokenKind::variable_begin:
      return "'{{'";
    case TokenKind::variable_end:
      return "'}}'";
    case TokenKind::string:
      return "a string";
    case TokenKind::number:
      return "a number";
    case TokenKind::end:
      return "end of template";
    default:
      return "'" + token.text + "'";
  }
}

bool is_constant_name(std::string_view name) {
  constexpr std::array<std::string_view, 6> kNames = {"true", "false", "none",
                                                      "True", "False", "None"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

}  // namespace

void ExpressionParser::wrong(std::string_view message) const {
  throw PythonError{std::string(message), current().line};
}

void ExpressionParser::unexpected(std::string_view expected) const {
  wrong(fmt::format("unexpected {}, expected {}", describe(current()), expected));
}

bool ExpressionParser::skip_op(std::string_view text) {
  if (!at_op(text)) return false;
  next();
  return true;
}

bool ExpressionParser::skip_name(std::string_view text) {
  if (!at_name(text)) return false;
  next();
  return true;
}

void ExpressionParser::expect(TokenKind kind, std::string_view what) {
  if (current().kind != kind) unexpected(what);
  next();
}

void ExpressionParser::expect_op(std::string_view text) {
  if (!skip_op(text)) unexpected(fmt::format("'{}'", text));
}

void ExpressionParser::expect_name(std::string_view text) {
  if (!skip_name(text)) unexpected(fmt::format("'{}'", text));
}

ExpressionPtr ExpressionParser::node(ExpressionKind kind, int line) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  return expression;
}

ExpressionPtr ExpressionParser::node(ExpressionKind kind, int line, ExpressionPtr first,
                                     ExpressionPtr second) const {
  ExpressionPtr expression = node(kind, line);
  add_part(*expression, std::move(first));
  if (second) add_part(*expression, std::move(second));
  return expression;
}

void ExpressionParser::limit_depth(Expression& parent, const Expression& part) const {
  parent.depth = std::max(parent.depth, part.depth + 1);
  if (parent.depth > kMaxTemplateDepth) wrong("expression nests too deeply");
}

void ExpressionParser::add_part(Expression& parent, ExpressionPtr part) const {
  if (part) limit_depth(parent, *part);
  parent.parts.push_back(std::move(part));
}

ExpressionPtr ExpressionParser::parse_tuple(bool with_condition, std::string_view end_name,
                                            bool in_parentheses) {
  const int line = current().line;
  std::vector<ExpressionPtr> parts;
  bool is_tuple = false;
  while (true) {
    if (!parts.empty()) expect_op(",");
    if (current().kind == TokenKind::variable_end || current().kind == TokenKind::block_end ||
        at_op(")") || (!end_name.empty() && at_name(end_name))) {
      break;
    }
    parts.push_back(parse_expression(with_condition));
    if (!at_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts[0]);
  if (!is_tuple && !in_parentheses) unexpected("an expression");
  ExpressionPtr tuple = node(ExpressionKind::tuple, line);
  for (ExpressionPtr& part : parts) add_part(*tuple, std::move(part));
  return tuple;
}

ExpressionPtr ExpressionParser::parse_target(bool with_namespace, std::string_view end_name) {
  const int line = current().line;
  std::vector<ExpressionPtr> parts;
  bool is_tuple = false;
  while (true) {
    if (!parts.empty()) expect_op(",");
    if (current().kind == TokenKind::variable_end || current().kind == TokenKind::block_end ||
        at_op(")") || (!end_name.empty() && at_name(end_name))) {
      break;
    }
    ExpressionPtr part;
    if (skip_op("(")) {
      part = parse_target(with_namespace);
      expect_op(")");
    } else {
      part = parse_primary(with_namespace);
    }
    if (part->kind != ExpressionKind::name && part->kind != ExpressionKind::tuple &&
        part->kind != ExpressionKind::namespace_attribute) {
      wrong("can't assign to an expression");
    }
    parts.push_back(std::move(part));
    if (!at_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts[0]);
  if (!is_tuple) unexpected("a name to assign to");
  ExpressionPtr tuple = node(ExpressionKind::tuple, line);
  for (ExpressionPtr& part : parts) add_part(*tuple, std::move(part));
  return tuple;
}

std::string ExpressionParser::parse_target_name() {
  if (current().kind != TokenKind::name || is_constant_name(current().text)) unexpected("a name");
  return next().text;
}

ExpressionPtr ExpressionParser::parse_expression(bool with_condition) {
  if (++nesting_ > kMaxTemplateDepth) wrong("expression nests too deeply");
  ExpressionPtr expression = with_condition ? parse_condition() : parse_either();
  --nesting_;
  return expression;
}

ExpressionPtr ExpressionParser::parse_condition() {
  int line = current().line;
  ExpressionPtr value = parse_either();
  while (skip_name("if")) {
    ExpressionPtr condition = parse_either();
    ExpressionPtr otherwise;
    if (skip_name("else")) otherwise = parse_expression();
    value = node(ExpressionKind::condition, line, std::move(condition), std::move(value));
    add_part(*value, std::move(otherwise));
    line = current().line;
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_either() {
  ExpressionPtr left = parse_both();
  while (at_name("or")) {
    const int line = next().line;
    left = node(ExpressionKind::either, line, std::move(left), parse_both());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_both() {
  ExpressionPtr left = parse_not();
  while (at_name("and")) {
    const int line = next().line;
    left = node(ExpressionKind::both, line, std::move(left), parse_not());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!at_name("not")) return parse_compare();
  const int line = next().line;
  if (++nesting_ > kMaxTemplateDepth) wrong("expression nests too deeply");
  ExpressionPtr negated = node(ExpressionKind::negate, line, parse_not());
  --nesting_;
  return negated;
}

ExpressionPtr ExpressionParser::parse_compare() {
  const int line = current().line;
  ExpressionPtr first = parse_sum();
  ExpressionPtr compare;
  constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  while (true) {
    std::string name;
    if (current().kind == TokenKind::op &&
        std::find(kOperators.begin(), kOperators.end(), current().text) != kOperators.end()) {
      name = next().text;
    } else if (skip_name("in")) {
      name = "in";
    } else if (at_name("not") && is(look(), TokenKind::name, "in")) {
      next();
      next();
      name = "not in";
    } else {
      break;
    }
    if (!compare) compare = node(ExpressionKind::compare, line, std::move(first));
    compare->operators.push_back(name);
    add_part(*compare, parse_sum());
  }
  return compare ? std::move(compare) : std::move(first);
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr left = parse_concat();
  while (at_op("+") || at_op("-")) {
    const Token op = next();
    left = node(ExpressionKind::binary, op.line, std::move(left), parse_concat());
    left->name = op.text;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concat() {
  ExpressionPtr first = parse_product();
  if (!at_op("~")) return first;
  ExpressionPtr concat = node(ExpressionKind::concat, current().line, std::move(first));
  while (skip_op("~")) add_part(*concat, parse_product());
  return concat;
}

ExpressionPtr ExpressionParser::parse_product() {
  ExpressionPtr left = parse_power();
  while (at_op("*") || at_op("/") || at_op("//") || at_op("%")) {
    const Token op = next();
    left = node(ExpressionKind::binary, op.line, std::move(left), parse_power());
    left->name = op.text;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr left = parse_unary();
  while (at_op("**")) {
    const int line = next().line;
    left = node(ExpressionKind::binary, line, std::move(left), parse_unary());
    left->name = "**";
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  ExpressionPtr value;
  if (at_op("-") || at_op("+")) {
    const Token op = next();
    if (++nesting_ > kMaxTemplateDepth) wrong("expression nests too deeply");
    value = node(op.text == "-" ? ExpressionKind::minus : ExpressionKind::plus, op.line,
                 parse_unary(false));
    --nesting_;
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::parse_primary(bool with_namespace) {
  const Token token = current();
  ExpressionPtr value = node(ExpressionKind::constant, token.line);
  if (token.kind == TokenKind::name) {
    next();
    if (is_constant_name(token.text)) {
      const char first = static_cast<char>(token.text[0] | 0x20);
      value->value = first == 'n' ? Value(nullptr) : Value(first == 't');
    } else if (with_namespace && skip_op(".")) {
      value->kind = ExpressionKind::namespace_attribute;
      value->name = token.text;
      if (current().kind != TokenKind::name) unexpected("an attribute name");
      value->attribute_name = next().text;
    } else {
      value->kind = ExpressionKind::name;
      value->name = token.text;
    }
  } else if (token.kind == TokenKind::string) {
    std::string text;
    while (current().kind == TokenKind::string) text += next().text;
    value->value = Value(std::move(text));
  } else if (token.kind == TokenKind::number) {
    value->value = next().number;
  } else if (skip_op("(")) {
    value = parse_tuple(true, {}, true);
    expect_op(")");
  } else if (at_op("[")) {
    value = parse_list();
  } else if (at_op("{")) {
    value = parse_dict();
  } else {
    unexpected("an expression");
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_list() {
  ExpressionPtr list = node(ExpressionKind::list, next().line);
  while (!at_op("]")) {
    if (!list->parts.empty()) expect_op(",");
    if (at_op("]")) break;
    add_part(*list, parse_expression());
  }
  next();
  return list;
}

ExpressionPtr ExpressionParser::parse_dict() {
  ExpressionPtr dict = node(ExpressionKind::dict, next().line);
  while (!at_op("}")) {
    if (!dict->parts.empty()) expect_op(",");
    if (at_op("}")) break;
    add_part(*dict, parse_expression());
    expect_op(":");
    add_part(*dict, parse_expression());
  }
  next();
  return dict;
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr value) {
  while (true) {
    if (at_op(".") || at_op("[")) {
      value = parse_subscript(std::move(value));
    } else if (at_op("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filters_and_tests(ExpressionPtr value) {
  while (true) {
    if (at_op("|")) {
      value = parse_filters(std::move(value));
    } else if (at_name("is")) {
      value = parse_test(std::move(value));
    } else if (at_op("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr value) {
  const Token token = next();
  if (token.text == "[") return parse_index(std::move(value), token.line);
  const Token name = next();
  if (name.kind == TokenKind::name) {
    ExpressionPtr attribute = node(ExpressionKind::attribute, token.line, std::move(value));
    attribute->name = name.text;
    return attribute;
  }
  if (name.kind != TokenKind::number || !name.number.is_int()) wrong("expected name or number");
  ExpressionPtr index = node(ExpressionKind::constant, name.line);
  index->value = name.number;
  return node(ExpressionKind::item, token.line, std::move(value), std::move(index));
}

ExpressionPtr ExpressionParser::parse_index(ExpressionPtr value, int line) {
  ExpressionPtr first;
  if (!at_op(":")) first = parse_expression();
  if (first && !at_op(":")) {
    if (at_op(",")) {
      ExpressionPtr tuple = node(ExpressionKind::tuple, line, std::move(first));
      while (skip_op(",")) add_part(*tuple, parse_expression());
      first = std::move(tuple);
    }
    expect_op("]");
    return node(ExpressionKind::item, line, std::move(value), std::move(first));
  }
  next();
  ExpressionPtr slice = node(ExpressionKind::slice, line, std::move(value));
  add_part(*slice, std::move(first));
  ExpressionPtr stop, step;
  if (!at_op(":") && !at_op("]")) stop = parse_expression();
  if (skip_op(":") && !at_op("]")) step = parse_expression();
  add_part(*slice, std::move(stop));
  add_part(*slice, std::move(step));
  expect_op("]");
  return slice;
}

void ExpressionParser::parse_arguments(Expression& call) {
  CallArguments& arguments = call.arguments;
  const int line = current().line;
  const auto ensure = [&](bool valid) {
    if (!valid) throw PythonError{"invalid syntax for function call expression", line};
  };
  const auto checked = [&] {
    ExpressionPtr argument = parse_expression();
    limit_depth(call, *argument);
    return argument;
  };
  expect_op("(");
  bool first = true;
  while (!at_op(")")) {
    if (!first) expect_op(",");
    if (at_op(")")) break;
    first = false;
    if (skip_op("*")) {
      ensure(!arguments.more_positional && !arguments.more_named);
      arguments.more_positional = checked();
    } else if (skip_op("**")) {
      ensure(!arguments.more_named);
      arguments.more_named = checked();
    } else if (current().kind == TokenKind::name && is(look(), TokenKind::op, "=")) {
      ensure(!arguments.more_named);
      std::string name = next().text;
      next();
      if (arguments.named.size() >= 255) wrong("more than 255 keyword arguments");
      for (const auto& known : arguments.named) {
        if (known.first == name) wrong(fmt::format("keyword argument repeated: {}", name));
      }
      arguments.named.emplace_back(std::move(name), checked());
    } else {
      ensure(!arguments.more_positional && !arguments.more_named && arguments.named.empty());
      arguments.positional.push_back(checked());
    }
  }
  next();
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr value) {
  ExpressionPtr call = node(ExpressionKind::call, current().line, std::move(value));
  parse_arguments(*call);
  return call;
}

std::string ExpressionParser::parse_dotted_name() {
  if (current().kind != TokenKind::name) unexpected("a name");
  std::string name = next().text;
  while (skip_op(".")) {
    if (current().kind != TokenKind::name) unexpected("a name");
    name += "." + next().text;
  }
  return name;
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value, bool start_inline) {
  while (at_op("|") || start_inline) {
    if (!start_inline) next();
    start_inline = false;
    ExpressionPtr filter = node(ExpressionKind::filter, current().line);
    add_part(*filter, std::move(value));
    filter->name = parse_dotted_name();
    if (at_op("(")) parse_arguments(*filter);
    value = std::move(filter);
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr value) {
  const int line = next().line;
  const bool negated = skip_name("not");
  ExpressionPtr test = node(ExpressionKind::test, line, std::move(value));
  test->name = parse_dotted_name();
  const TokenKind kind = current().kind;
  if (at_op("(")) {
    parse_arguments(*test);
  } else if ((kind == TokenKind::name || kind == TokenKind::string || kind == TokenKind::number ||
              at_op("[") || at_op("{")) &&
             !at_name("else") && !at_name("or") && !at_name("and")) {
    if (at_name("is")) wrong("You cannot chain multiple tests with is");
    ExpressionPtr argument = parse_postfix(parse_primary());
    limit_depth(*test, *argument);
    test->arguments.positional.push_back(std::move(argument));
  }
  return negated ? node(ExpressionKind::negate, line, std::move(test)) : std::move(test);
}

}  // namespace heddle::text::jinja
