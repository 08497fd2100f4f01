#pragma once
// The expression half of the template parser. Internal to text/template.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template/jinja/ast.h"
#include "text/template/jinja/lexer.h"

namespace heddle::text::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // Comma-separated expressions make a tuple. `end_name`: a name that ends the tuple after a comma.
  ExpressionPtr parse_tuple(bool with_condition, std::string_view end_name = {},
                            bool in_parentheses = false);
  ExpressionPtr parse_expression(bool with_condition = true);
  // What may stand left of `=`: a name, a tuple of names, or (with_namespace) name.attribute.
  ExpressionPtr parse_target(bool with_namespace, std::string_view end_name = {});
  std::string parse_target_name();
  // `| filter | filter(...)` applied to `input`, which may be null; with start_inline the first `|`
  // is missing.
  ExpressionPtr parse_filters(ExpressionPtr input, bool start_inline = false);

  const Token& current() const { return tokens_[at_]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool at_op(std::string_view text) const { return is(current(), TokenKind::op, text); }
  bool at_name(std::string_view text) const { return is(current(), TokenKind::name, text); }
  bool skip_op(std::string_view text);
  bool skip_name(std::string_view text);
  void expect(TokenKind kind, std::string_view what);
  void expect_op(std::string_view text);
  void expect_name(std::string_view text);
  [[noreturn]] void wrong(std::string_view message) const;
  [[noreturn]] void unexpected(std::string_view expected) const;

  static bool is(const Token& token, TokenKind kind, std::string_view text) {
    return token.kind == kind && token.text == text;
  }

 private:
  ExpressionPtr node(ExpressionKind kind, int line) const;
  ExpressionPtr node(ExpressionKind kind, int line, ExpressionPtr first,
                     ExpressionPtr second = nullptr) const;
  void add_part(Expression& parent, ExpressionPtr part) const;
  void limit_depth(Expression& parent, const Expression& part) const;

  ExpressionPtr parse_condition();
  ExpressionPtr parse_either();
  ExpressionPtr parse_both();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters = true);
  ExpressionPtr parse_primary(bool with_namespace = false);
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_filters_and_tests(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr value);
  ExpressionPtr parse_index(ExpressionPtr value, int line);
  ExpressionPtr parse_call(ExpressionPtr value);
  ExpressionPtr parse_test(ExpressionPtr value);
  std::string parse_dotted_name();
  void parse_arguments(Expression& call);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace heddle::text::jinja
