#include "text/template/jinja/parser.h"

#include <algorithm>
#include <array>

#include "text/template/jinja/expression_parser.h"
#include "text/template/jinja/filters.h"
#include "text/template/value_python.h"

namespace heddle::text::jinja {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

using Names = std::initializer_list<std::string_view>;

class StatementParser {
 public:
  explicit StatementParser(std::vector<Token> tokens) : in_(std::move(tokens)) {}

  Body parse_all() {
    Body body = parse_body({});
    return body;
  }

 private:
  static std::unique_ptr<Statement> make(StatementKind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  // Statements up to a tag of one of the names `ends`, whose name is then the current token.
  Body parse_body(Names ends) {
    Body body;
    while (true) {
      const Token& token = in_.current();
      switch (token.kind) {
        case TokenKind::data:
          body.push_back(make(StatementKind::text, token.line));
          body.back()->text = in_.next().text;
          continue;
        case TokenKind::variable_begin:
          in_.next();
          body.push_back(make(StatementKind::output, in_.current().line));
          body.back()->value = in_.parse_tuple(true);
          in_.expect(TokenKind::variable_end, "'}}'");
          continue;
        case TokenKind::block_begin:
          in_.next();
          for (const std::string_view end : ends) {
            if (in_.at_name(end)) return body;
          }
          body.push_back(parse_statement());
          in_.expect(TokenKind::block_end, "'%}'");
          continue;
        default:
          break;
      }
      if (ends.size() > 0) in_.unexpected(fmt::format("'{}'", *(ends.end() - 1)));
      return body;
    }
  }

  // The body of the tag just read, up to a tag named in `ends`; its name is then the current token.
  Body parse_block(Names ends) {
    in_.skip_op(":");
    in_.expect(TokenKind::block_end, "'%}'");
    if (++nesting_ > kMaxTemplateDepth / 2) in_.wrong("statements nest too deeply");
    Body body = parse_body(ends);
    --nesting_;
    return body;
  }

  Body parse_closed_block(std::string_view end) {
    Body body = parse_block({end});
    in_.next();
    return body;
  }

  // A body that Jinja compiles to a function: no break of a loop around it.
  Body parse_function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = parse_closed_block(end);
    loops_ = loops;
    return body;
  }

  std::unique_ptr<Statement> parse_statement() {
    if (in_.current().kind != TokenKind::name) in_.wrong("tag name expected");
    const std::string name = in_.current().text;
    if (name == "if") return parse_if();
    if (name == "for") return parse_for();
    if (name == "set") return parse_set();
    if (name == "macro") return parse_macro();
    if (name == "call") return parse_call();
    if (name == "filter") return parse_filter();
    if (name == "with") return parse_with();
    if (name == "print") return parse_print();
    if (name == "generation") return parse_generation();
    if (name == "break" || name == "continue") return parse_jump();
    constexpr std::array<std::string_view, 6> kOtherTemplates = {"block",  "extends", "include",
                                                                 "import", "from",    "autoescape"};
    if (std::find(kOtherTemplates.begin(), kOtherTemplates.end(), name) != kOtherTemplates.end()) {
      in_.wrong(fmt::format("the tag '{}' is not supported in chat templates", name));
    }
    in_.wrong(fmt::format("Encountered unknown tag '{}'.", name));
  }

  std::unique_ptr<Statement> parse_if() {
    auto statement = make(StatementKind::if_else, in_.next().line);
    while (true) {
      ExpressionPtr condition = in_.parse_tuple(false);
      Body body = parse_block({"elif", "else", "endif"});
      statement->branches.emplace_back(std::move(condition), std::move(body));
      const std::string end = in_.next().text;
      if (end == "elif") continue;
      if (end == "else") statement->else_body = parse_closed_block("endif");
      return statement;
    }
  }

  std::unique_ptr<Statement> parse_for() {
    auto statement = make(StatementKind::for_loop, in_.next().line);
    statement->target = in_.parse_target(false, "in");
    in_.expect_name("in");
    statement->value = in_.parse_tuple(false, "recursive");
    if (in_.skip_name("if")) statement->condition = in_.parse_expression();
    statement->recursive = in_.skip_name("recursive");
    ++loops_;
    statement->body = parse_block({"else", "endfor"});
    --loops_;
    if (in_.next().text == "else") statement->else_body = parse_closed_block("endfor");
    return statement;
  }

  std::unique_ptr<Statement> parse_set() {
    auto statement = make(StatementKind::set, in_.next().line);
    statement->target = in_.parse_target(true);
    if (in_.skip_op("=")) {
      statement->value = in_.parse_tuple(true);
      return statement;
    }
    statement->kind = StatementKind::set_block;
    statement->value = in_.parse_filters(nullptr);
    statement->body = parse_closed_block("endset");
    return statement;
  }

  void parse_signature(MacroDefinition& macro) {
    in_.expect_op("(");
    while (!in_.at_op(")")) {
      if (!macro.parameters.empty()) in_.expect_op(",");
      if (macro.parameters.size() >= 255) in_.wrong("more than 255 parameters");
      macro.parameters.push_back(in_.parse_target_name());
      if (in_.skip_op("=")) {
        macro.defaults.push_back(in_.parse_expression());
      } else if (!macro.defaults.empty()) {
        in_.wrong("non-default argument follows default argument");
      }
    }
    in_.next();
  }

  std::unique_ptr<Statement> parse_macro() {
    auto statement = make(StatementKind::macro, in_.next().line);
    statement->macro = std::make_unique<MacroDefinition>();
    statement->macro->name = in_.parse_target_name();
    parse_signature(*statement->macro);
    statement->macro->body = parse_function_body("endmacro");
    return statement;
  }

  std::unique_ptr<Statement> parse_call() {
    auto statement = make(StatementKind::call_block, in_.next().line);
    statement->macro = std::make_unique<MacroDefinition>();
    statement->macro->name = "caller";
    if (in_.at_op("(")) parse_signature(*statement->macro);
    statement->value = in_.parse_expression();
    if (statement->value->kind != ExpressionKind::call) in_.wrong("expected call");
    statement->macro->body = parse_function_body("endcall");
    return statement;
  }

  std::unique_ptr<Statement> parse_filter() {
    auto statement = make(StatementKind::filter_block, in_.next().line);
    statement->value = in_.parse_filters(nullptr, true);
    statement->body = parse_closed_block("endfilter");
    return statement;
  }

  std::unique_ptr<Statement> parse_with() {
    auto statement = make(StatementKind::with, in_.next().line);
    while (in_.current().kind != TokenKind::block_end) {
      if (!statement->assignments.empty()) in_.expect_op(",");
      ExpressionPtr target = in_.parse_target(false);
      in_.expect_op("=");
      statement->assignments.emplace_back(std::move(target), in_.parse_expression());
    }
    statement->body = parse_closed_block("endwith");
    return statement;
  }

  std::unique_ptr<Statement> parse_print() {
    auto statement = make(StatementKind::output, in_.next().line);
    auto joined = std::make_unique<Expression>();
    joined->kind = ExpressionKind::concat;
    joined->line = statement->line;
    while (in_.current().kind != TokenKind::block_end) {
      if (!joined->parts.empty()) in_.expect_op(",");
      joined->parts.push_back(in_.parse_expression());
    }
    statement->value = std::move(joined);
    return statement;
  }

  std::unique_ptr<Statement> parse_generation() {
    auto statement = make(StatementKind::scope, in_.next().line);
    statement->body = parse_function_body("endgeneration");
    return statement;
  }

  std::unique_ptr<Statement> parse_jump() {
    if (loops_ == 0) in_.wrong(fmt::format("'{}' outside loop", in_.current().text));
    const Token token = in_.next();
    return make(token.text == "break" ? StatementKind::break_loop : StatementKind::continue_loop,
                token.line);
  }

  ExpressionParser in_;
  int nesting_ = 0;
  int loops_ = 0;
};

// Finds the functions behind filter and test names and what macros use. Jinja refuses an unknown
// name when it compiles, except directly inside if-branches and conditional expressions ("soft"):
// there it fails when reached.
class Resolver {
 public:
  void visit(Body& body, bool soft) {
    for (auto& statement : body) visit(*statement, soft);
  }

 private:
  void visit(Statement& statement, bool soft) {
    const bool is_loop = statement.kind == StatementKind::for_loop;
    const bool in_body =
        statement.kind == StatementKind::set_block || statement.kind == StatementKind::filter_block;
    visit(statement.target.get(), soft);
    visit(statement.value.get(), soft && !in_body);
    visit(statement.condition.get(), soft && !is_loop);
    for (auto& [condition, body] : statement.branches) {
      visit(condition.get(), true);
      visit(body, true);
    }
    for (auto& [target, value] : statement.assignments) visit(value.get(), soft);
    visit(statement.body, false);
    visit(statement.else_body, statement.kind == StatementKind::if_else);
    if (statement.macro) visit(*statement.macro);
  }

  void visit(MacroDefinition& macro) {
    MacroDefinition* outer = std::exchange(macro_, &macro);
    visit(macro.body, false);
    macro_ = outer;
    for (auto& value : macro.defaults) visit(value.get(), false);
    if (!macro_) return;  // what a nested macro uses, the one around it takes too
    macro_->uses_caller |= macro.uses_caller;
    macro_->uses_varargs |= macro.uses_varargs;
    macro_->uses_kwargs |= macro.uses_kwargs;
  }

  void visit(Expression* expression, bool soft) {
    if (!expression) return;
    soft |= expression->kind == ExpressionKind::condition;
    if (expression->kind == ExpressionKind::name && macro_) {
      macro_->uses_caller |= expression->name == "caller";
      macro_->uses_varargs |= expression->name == "varargs";
      macro_->uses_kwargs |= expression->name == "kwargs";
    }
    if (expression->kind == ExpressionKind::filter) {
      expression->filter = find_filter(expression->name);
      if (!expression->filter && !soft) unknown(*expression, "filter");
    }
    if (expression->kind == ExpressionKind::test) {
      expression->test = find_test(expression->name);
      if (!expression->test && !soft) unknown(*expression, "test");
    }
    for (auto& part : expression->parts) visit(part.get(), soft);
    for (auto& argument : expression->arguments.positional) visit(argument.get(), soft);
    for (auto& argument : expression->arguments.named) visit(argument.second.get(), soft);
    visit(expression->arguments.more_positional.get(), soft);
    visit(expression->arguments.more_named.get(), soft);
  }

  [[noreturn]] static void unknown(const Expression& expression, std::string_view what) {
    throw PythonError{fmt::format("No {} named '{}'.", what, expression.name), expression.line};
  }

  MacroDefinition* macro_ = nullptr;
};

}  // namespace

Body parse_template(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    raise("template has {} bytes, expected at most {}", source.size(), kMaxSourceBytes);
  }
  Body body = StatementParser(tokenize_template(source)).parse_all();
  Resolver().visit(body, false);
  return body;
}

}  // namespace heddle::text::jinja
