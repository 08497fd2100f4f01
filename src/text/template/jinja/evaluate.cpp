// Expressions.
#include <algorithm>

#include "text/template/jinja/interpreter.h"
#include "text/template/python_string.h"

namespace heddle::text::jinja {
namespace {

// How Jinja names an object in "... has no attribute".
std::string described(const Value& object) {
  if (object.is_none()) return "None";
  return fmt::format("{} object", type_name(object));
}

Value no_attribute(const Value& object, const std::string& name) {
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", described(object), name));
}

}  // namespace

Value Interpreter::evaluate(const Expression& expression, const ScopePtr& scope) {
  budget_.use_steps(1);
  if (depth_ >= limits_.depth) raise("template recurses too deeply");
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{++depth_};
  try {
    return evaluate_node(expression, scope);
  } catch (PythonError& error) {
    if (error.line == 0) error.line = expression.line;
    throw;
  }
}

Value Interpreter::evaluate_node(const Expression& expression, const ScopePtr& scope) {
  const auto part = [&](size_t i) { return evaluate(*expression.parts[i], scope); };
  switch (expression.kind) {
    case ExpressionKind::constant:
      return expression.value;
    case ExpressionKind::name:
    case ExpressionKind::namespace_attribute:
      return evaluate_name(expression, scope);
    case ExpressionKind::tuple:
    case ExpressionKind::list:
    case ExpressionKind::dict:
      return evaluate_container(expression, scope);
    case ExpressionKind::attribute:
      return attribute(part(0), expression.name);
    case ExpressionKind::item: {
      const Value object = part(0);
      return item(object, part(1));
    }
    case ExpressionKind::slice:
      return evaluate_slice(expression, scope);
    case ExpressionKind::call:
      return evaluate_call(expression, scope);
    case ExpressionKind::filter:
      return evaluate_filter(expression, scope, nullptr);
    case ExpressionKind::test:
      return evaluate_test(expression, scope);
    case ExpressionKind::negate:
      return Value(!truthy(part(0)));
    case ExpressionKind::minus:
      return binary(*this, "neg", part(0), Value());
    case ExpressionKind::plus:
      return binary(*this, "pos", part(0), Value());
    case ExpressionKind::both: {
      Value left = part(0);
      return truthy(left) ? part(1) : left;
    }
    case ExpressionKind::either: {
      Value left = part(0);
      return truthy(left) ? left : part(1);
    }
    case ExpressionKind::binary: {
      const Value left = part(0);
      return binary(*this, expression.name, left, part(1));
    }
    case ExpressionKind::concat:
      return evaluate_concat(expression, scope);
    case ExpressionKind::compare:
      return evaluate_compare(expression, scope);
    case ExpressionKind::condition:
      return evaluate_condition(expression, scope);
  }
  return Value();
}

Value Interpreter::evaluate_name(const Expression& expression, const ScopePtr& scope) {
  for (const Scope* at = scope.get(); at; at = at->parent.get()) {
    const auto found = at->names.find(expression.name);
    if (found != at->names.end()) return found->second;
  }
  const auto found = globals_.find(expression.name);
  if (found != globals_.end()) return found->second;
  return Value::undefined(fmt::format("'{}' is undefined", expression.name));
}

Value Interpreter::evaluate_container(const Expression& expression, const ScopePtr& scope) {
  if (expression.kind == ExpressionKind::dict) {
    std::vector<std::pair<Value, Value>> entries;
    for (size_t i = 0; i + 1 < expression.parts.size(); i += 2) {
      Value key = evaluate(*expression.parts[i], scope);
      entries.emplace_back(std::move(key), evaluate(*expression.parts[i + 1], scope));
    }
    return make_map(std::move(entries), budget_);
  }
  std::vector<Value> items;
  items.reserve(expression.parts.size());
  for (const auto& part : expression.parts) items.push_back(evaluate(*part, scope));
  const bool is_tuple = expression.kind == ExpressionKind::tuple;
  return make_sequence(is_tuple ? SequenceKind::tuple : SequenceKind::list, std::move(items),
                       budget_);
}

Value Interpreter::evaluate_concat(const Expression& expression, const ScopePtr& scope) {
  std::string text;
  for (const auto& part : expression.parts) {
    text += text_of(evaluate(*part, scope));
    check_size(static_cast<int64_t>(text.size()));
  }
  return string(std::move(text));
}

Value Interpreter::evaluate_condition(const Expression& expression, const ScopePtr& scope) {
  if (truthy(evaluate(*expression.parts[0], scope))) return evaluate(*expression.parts[1], scope);
  if (expression.parts[2]) return evaluate(*expression.parts[2], scope);
  return Value::undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.",
      expression.line));
}

Value Interpreter::evaluate_compare(const Expression& expression, const ScopePtr& scope) {
  Value left = evaluate(*expression.parts[0], scope);
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    const std::string& op = expression.operators[i];
    Value right = evaluate(*expression.parts[i + 1], scope);
    bool holds = false;
    if (op == "==" || op == "!=") {
      holds = equals(left, right) == (op == "==");
    } else if (op == "in" || op == "not in") {
      holds = contains(right, left) == (op == "in");
    } else {
      bool unordered = false;
      const int order = compare(left, right, budget_, &unordered);
      holds = !unordered && (op == "<"    ? order < 0
                             : op == "<=" ? order <= 0
                             : op == ">"  ? order > 0
                                          : order >= 0);
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::evaluate_slice(const Expression& expression, const ScopePtr& scope) {
  Value bounds[3] = {Value(nullptr), Value(nullptr), Value(nullptr)};
  const Value value = evaluate(*expression.parts[0], scope);
  for (size_t i = 0; i < 3; ++i) {
    if (expression.parts[i + 1]) bounds[i] = evaluate(*expression.parts[i + 1], scope);
  }
  return slice(*this, value, bounds[0], bounds[1], bounds[2]);
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments, const ScopePtr& scope) {
  Arguments out;
  out.positional.reserve(arguments.positional.size());
  for (const auto& argument : arguments.positional) {
    out.positional.push_back(evaluate(*argument, scope));
  }
  for (const auto& [name, argument] : arguments.named) {
    out.named.emplace_back(name, evaluate(*argument, scope));
  }
  if (arguments.more_positional) {
    const auto more = iterate(evaluate(*arguments.more_positional, scope));
    budget_.use_bytes(static_cast<int64_t>(more->items.size() * sizeof(Value)));
    out.positional.insert(out.positional.end(), more->items.begin(), more->items.end());
  }
  if (arguments.more_named) {
    const Value more = evaluate(*arguments.more_named, scope);
    if (!more.is_map()) raise("argument after ** must be a mapping, not {}", type_name(more));
    if (more.as_map().entries.size() > 1000) raise("more than 1000 keyword arguments");
    for (const auto& [key, value] : more.as_map().entries) {
      if (!key.is_string()) raise("keywords must be strings");
      out.named.emplace_back(key.as_string(), value);
    }
  }
  return out;
}

Value Interpreter::evaluate_call(const Expression& expression, const ScopePtr& scope) {
  const Value function = evaluate(*expression.parts[0], scope);
  return call(function, evaluate_arguments(expression.arguments, scope));
}

Value Interpreter::call(const Value& function, const Arguments& arguments) {
  if (function.is_undefined()) raise("{}", function.undefined_message());
  if (function.is_object()) {
    const std::shared_ptr<Object> object = function.as_object();
    if (const auto* macro = dynamic_cast<const MacroObject*>(object.get())) {
      return call_macro(*macro, arguments);
    }
    if (const auto* builtin = dynamic_cast<const FunctionObject*>(object.get())) {
      return builtin->call(*this, arguments);
    }
    if (const auto* loop = dynamic_cast<const LoopObject*>(object.get())) {
      return call_loop(*loop, arguments);
    }
  }
  raise("'{}' object is not callable", type_name(function));
}

Value Interpreter::evaluate_filter(const Expression& expression, const ScopePtr& scope,
                                   const Value* block) {
  const Expression* inner = expression.parts[0].get();
  Value input;
  if (!inner) {
    input = *block;
  } else if (block && inner->kind == ExpressionKind::filter) {
    input = evaluate_filter(*inner, scope, block);
  } else {
    input = evaluate(*inner, scope);
  }
  const Arguments arguments = evaluate_arguments(expression.arguments, scope);
  if (!expression.filter) raise("No filter named '{}' found.", expression.name);
  return expression.filter(*this, input, arguments);
}

Value Interpreter::evaluate_test(const Expression& expression, const ScopePtr& scope) {
  const Value input = evaluate(*expression.parts[0], scope);
  const Arguments arguments = evaluate_arguments(expression.arguments, scope);
  if (!expression.test) raise("No test named '{}' found.", expression.name);
  return Value(expression.test(*this, input, arguments));
}

Value Interpreter::call_filter(std::string_view name, const Value& input,
                               const Arguments& arguments) {
  const Filter filter = find_filter(name);
  if (!filter) raise("No filter named '{}'.", name);
  budget_.use_steps(1);
  return filter(*this, input, arguments);
}

bool Interpreter::call_test(std::string_view name, const Value& input, const Arguments& arguments) {
  const Test test = find_test(name);
  if (!test) raise("No test named '{}'.", name);
  budget_.use_steps(1);
  return test(*this, input, arguments);
}

Value Interpreter::object_attribute(const Value& object, const std::string& name) {
  const std::shared_ptr<Object>& shared = object.as_object();
  if (const auto* space = dynamic_cast<const NamespaceObject*>(shared.get())) {
    for (const auto& [known, value] : space->attributes) {
      budget_.use_steps(1);
      if (known == name) return value;
    }
  } else if (const auto loop = std::dynamic_pointer_cast<LoopObject>(shared)) {
    return loop_attribute(loop, name);
  } else if (const auto* macro = dynamic_cast<const MacroObject*>(shared.get())) {
    if (name == "name") return Value(macro->definition->name);
    if (name == "arguments") {
      std::vector<Value> names;
      for (const auto& parameter : macro->definition->parameters) names.emplace_back(parameter);
      return make_sequence(SequenceKind::tuple, std::move(names), budget_);
    }
  }
  return no_attribute(object, name);
}

Value Interpreter::attribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) raise("{}", object.undefined_message());
  if (object.is_object()) return object_attribute(object, name);
  if (auto bound = method(object, name)) return *bound;
  if (const Value* found = object.find(name)) return *found;
  return no_attribute(object, name);
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (object.is_undefined()) raise("{}", object.undefined_message());
  if (object.is_map()) {
    budget_.use_steps(1);
    if (const Value* found = object.as_map().find(key)) return *found;
  } else if ((object.is_list() || object.is_string() ||
              (object.is_sequence() && object.as_sequence().kind == SequenceKind::range)) &&
             (key.is_int() || key.is_bool())) {
    return item_at(*this, object, key.is_bool() ? int64_t{key.as_bool()} : key.as_int());
  }
  if (!key.is_string()) {
    return Value::undefined(
        fmt::format("{} has no element {}", described(object), repr(key, budget_)));
  }
  if (object.is_object()) return object_attribute(object, key.as_string());
  if (auto bound = method(object, key.as_string())) return *bound;
  return no_attribute(object, key.as_string());
}

std::shared_ptr<const Sequence> Interpreter::iterate(const Value& value) {
  if (value.is_sequence()) {
    const Sequence& sequence = value.as_sequence();
    if (sequence.kind != SequenceKind::iterator) return value.shared_sequence();
    if (std::exchange(sequence.consumed, true)) return std::make_shared<Sequence>();
    return value.shared_sequence();
  }
  auto items = std::make_shared<Sequence>();
  if (value.is_map()) {
    const auto& entries = value.as_map().entries;
    budget_.use_bytes(static_cast<int64_t>(entries.size() * sizeof(Value)));
    for (const auto& entry : entries) items->items.push_back(entry.first);
  } else if (value.is_string()) {
    const std::string& text = value.as_string();
    budget_.use_bytes(static_cast<int64_t>(text.size()) * 100);
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      next_code_point(text, i);
      items->items.emplace_back(text.substr(begin, i - begin));
    }
  } else if (!value.is_undefined()) {
    raise("'{}' object is not iterable", type_name(value));
  }
  return items;
}

bool Interpreter::contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      raise("'in <string>' requires string as left operand, not {}", type_name(item));
    }
    budget_.use_steps(static_cast<int64_t>(container.as_string().size() >> 3));
    return find_text(container.as_string(), item.as_string()) != std::string::npos;
  }
  if (container.is_map()) {
    if (!is_hashable(item)) raise("unhashable type: '{}'", type_name(item));
    return container.as_map().find(item) != nullptr;
  }
  if (!container.is_sequence() && !container.is_undefined()) {
    raise("argument of type '{}' is not iterable", type_name(container));
  }
  const auto items = iterate(container);
  return std::any_of(items->items.begin(), items->items.end(),
                     [&](const Value& other) { return equals(other, item); });
}

}  // namespace heddle::text::jinja
