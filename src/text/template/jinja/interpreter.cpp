// Statements. Expressions are in evaluate.cpp.
#include "text/template/jinja/interpreter.h"

#include <algorithm>

namespace heddle::text::jinja {

Interpreter::Interpreter(const Limits& limits, std::optional<std::tm> now)
    : limits_(limits),
      budget_{.steps = limits.steps, .bytes = limits.bytes},
      now_(now),
      globals_(make_globals()) {}

Interpreter::~Interpreter() {
  for (auto& scope : captured_) scope->names.clear();
  for (auto& object : namespaces_) object->attributes.clear();
}

class Interpreter::DepthGuard {
 public:
  explicit DepthGuard(Interpreter& in) : in_(in) {
    in_.budget_.use_steps(1);
    if (in_.depth_ >= in_.limits_.depth) raise("template recurses too deeply");
    ++in_.depth_;
  }
  ~DepthGuard() { --in_.depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Interpreter& in_;
};

template <class Produce>
std::string Interpreter::capture(const Produce& produce) {
  struct Restore {
    std::string*& slot;
    std::string* before;
    ~Restore() { slot = before; }
  };
  std::string text;
  const Restore restore{out_, std::exchange(out_, &text)};
  produce();
  return text;
}

std::string Interpreter::render(const Body& body,
                                std::vector<std::pair<std::string, Value>> variables,
                                const Value& messages) {
  if (messages.is_sequence()) {
    for (const Value& message : messages.items()) {
      if (message.is_map()) messages_.try_emplace(message.identity(), Written{message_count_});
      ++message_count_;
    }
  }
  // Two scopes, as in Jinja: what the caller gave lies under what the template sets.
  auto given = std::make_shared<Scope>();
  for (auto& [name, value] : variables) given->names[name] = std::move(value);
  const auto scope = inner_scope(given);
  captured_.push_back(scope);
  return capture([&] {
    text_ = out_;
    run(body, scope);
  });
}

void Interpreter::note_message(const Value& item, size_t begin) {
  if (out_ != text_ || out_->size() == begin) return;
  const auto found = messages_.find(item.identity());
  if (found == messages_.end()) return;
  found->second.begin = static_cast<int64_t>(begin);
  found->second.end = static_cast<int64_t>(out_->size());
}

std::vector<int64_t> Interpreter::ends() const {
  std::vector<int64_t> begins(message_count_, -1), ends(message_count_, -1);
  for (const auto& [identity, written] : messages_) {
    begins[written.index] = written.begin;
    ends[written.index] = written.end;
  }
  int64_t before = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    // What stands between two messages belongs to the first.
    if (i + 1 < ends.size() && begins[i + 1] >= 0) ends[i] = begins[i + 1];
    before = std::max(before, begins[i]);
    if (begins[i] >= 0 && begins[i] < before) ends[i] = -1;  // written before an earlier one
    if (ends[i] < before) ends[i] = -1;
    before = std::max(before, ends[i]);
  }
  return ends;
}

void Interpreter::check_size(int64_t bytes) const {
  if (bytes > limits_.output_bytes) {
    raise("template makes text of more than {} bytes", limits_.output_bytes);
  }
}

void Interpreter::write(std::string_view text) {
  check_size(static_cast<int64_t>(out_->size() + text.size()));
  budget_.use_bytes(static_cast<int64_t>(text.size()));
  out_->append(text);
}

Interpreter::ScopePtr Interpreter::inner_scope(const ScopePtr& parent) {
  budget_.use_bytes(64);
  auto scope = std::make_shared<Scope>();
  scope->parent = parent;
  return scope;
}

std::shared_ptr<NamespaceObject> Interpreter::make_namespace() {
  budget_.use_bytes(128);
  namespaces_.push_back(std::make_shared<NamespaceObject>());
  return namespaces_.back();
}

Interpreter::Flow Interpreter::run(const Body& body, const ScopePtr& scope) {
  for (const auto& statement : body) {
    const Flow flow = run(*statement, scope);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Statement& statement, const ScopePtr& scope) try {
  const DepthGuard guard(*this);
  switch (statement.kind) {
    case StatementKind::text:
      write(statement.text);
      return Flow::normal;
    case StatementKind::output: {
      const Value value = evaluate(*statement.value, scope);
      write(value.is_string() ? value.as_string() : text_of(value));
      return Flow::normal;
    }
    case StatementKind::set:
      assign(*statement.target, evaluate(*statement.value, scope), scope);
      return Flow::normal;
    case StatementKind::set_block:
      return run_set_block(statement, scope);
    case StatementKind::if_else:
      return run_if(statement, scope);
    case StatementKind::for_loop:
      return run_for(statement, scope);
    case StatementKind::macro:
      define_macro(statement, scope);
      return Flow::normal;
    case StatementKind::call_block:
      run_call_block(statement, scope);
      return Flow::normal;
    case StatementKind::filter_block:
      return run_filter_block(statement, scope);
    case StatementKind::with:
      return run_with(statement, scope);
    case StatementKind::scope:
      return run(statement.body, inner_scope(scope));
    case StatementKind::break_loop:
      return Flow::stop;
    case StatementKind::continue_loop:
      return Flow::skip;
  }
  return Flow::normal;
} catch (PythonError& error) {
  if (error.line == 0) error.line = statement.line;
  throw;
}

Interpreter::Flow Interpreter::run_if(const Statement& statement, const ScopePtr& scope) {
  for (const auto& [condition, body] : statement.branches) {
    if (truthy(evaluate(*condition, scope))) return run(body, scope);
  }
  return run(statement.else_body, scope);
}

Interpreter::Flow Interpreter::run_set_block(const Statement& statement, const ScopePtr& scope) {
  const auto inside = inner_scope(scope);
  Flow flow = Flow::normal;
  Value text = string(capture([&] { flow = run(statement.body, inside); }));
  if (flow != Flow::normal) return flow;
  if (statement.value) text = evaluate_filter(*statement.value, inside, &text);
  assign(*statement.target, text, scope);
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_filter_block(const Statement& statement, const ScopePtr& scope) {
  const auto inside = inner_scope(scope);
  Flow flow = Flow::normal;
  const Value text = string(capture([&] { flow = run(statement.body, inside); }));
  if (flow != Flow::normal) return flow;
  write(text_of(evaluate_filter(*statement.value, inside, &text)));
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_with(const Statement& statement, const ScopePtr& scope) {
  const auto inside = inner_scope(scope);
  for (const auto& [target, value] : statement.assignments) {
    assign(*target, evaluate(*value, scope), inside);
  }
  return run(statement.body, inside);
}

void Interpreter::define_macro(const Statement& statement, const ScopePtr& scope) {
  auto macro = std::make_shared<MacroObject>();
  macro->definition = statement.macro.get();
  macro->scope = scope;
  captured_.push_back(scope);
  budget_.use_bytes(128);
  const std::string& name = macro->definition->name;
  scope->names[name] = Value(std::shared_ptr<Object>(std::move(macro)));
}

void Interpreter::run_call_block(const Statement& statement, const ScopePtr& scope) {
  auto caller = std::make_shared<MacroObject>();
  caller->definition = statement.macro.get();
  caller->scope = scope;
  captured_.push_back(scope);
  const Expression& call_expression = *statement.value;
  const Value function = evaluate(*call_expression.parts[0], scope);
  Arguments arguments = evaluate_arguments(call_expression.arguments, scope);
  arguments.named.emplace_back("caller", Value(std::shared_ptr<Object>(std::move(caller))));
  write(text_of(call(function, arguments)));
}

void Interpreter::assign(const Expression& target, const Value& value, const ScopePtr& scope) {
  if (target.kind == ExpressionKind::name) {
    budget_.use_bytes(64);
    scope->names[target.name] = value;
    return;
  }
  if (target.kind == ExpressionKind::tuple) {
    const auto items = iterate(value);
    if (items->items.size() != target.parts.size()) {
      raise("cannot unpack {} values into {} names", items->items.size(), target.parts.size());
    }
    for (size_t i = 0; i < target.parts.size(); ++i) {
      assign(*target.parts[i], items->items[i], scope);
    }
    return;
  }
  const Value object = evaluate_name(target, scope);
  auto* place =
      object.is_object() ? dynamic_cast<NamespaceObject*>(object.as_object().get()) : nullptr;
  if (!place) raise("cannot assign attribute on non-namespace object");
  if (target.attribute_name.starts_with('_')) {
    raise("a namespace cannot store the underscore-prefixed attribute '{}'", target.attribute_name);
  }
  for (auto& [name, slot] : place->attributes) {
    budget_.use_steps(1);
    if (name == target.attribute_name) {
      slot = value;
      return;
    }
  }
  budget_.use_bytes(64);
  place->attributes.emplace_back(target.attribute_name, value);
}

Interpreter::Flow Interpreter::run_for(const Statement& statement, const ScopePtr& scope) {
  return run_loop(statement, scope, evaluate(*statement.value, scope));
}

std::optional<Value> Interpreter::pull(LoopObject& loop) {
  if (loop.after) return std::exchange(loop.after, std::nullopt);
  const Expression* condition = loop.statement ? loop.statement->condition.get() : nullptr;
  while (loop.taken < loop.source->items.size()) {
    const Value item = loop.source->items[loop.taken++];
    if (!condition || !loop.scope) return item;
    const auto inside = inner_scope(loop.scope);
    assign(*loop.statement->target, item, inside);
    if (truthy(evaluate(*condition, inside))) return item;
  }
  return std::nullopt;
}

// Counting a loop with a condition takes all its items, as Jinja does.
int64_t Interpreter::loop_length(LoopObject& loop) {
  if (loop.statement && loop.statement->condition) {
    std::vector<Value> seen(static_cast<size_t>(loop.index + 1));
    while (auto item = pull(loop)) seen.push_back(std::move(*item));
    auto all = std::make_shared<Sequence>();
    budget_.use_bytes(static_cast<int64_t>(seen.size() * sizeof(Value)));
    all->items = std::move(seen);
    loop.taken = static_cast<size_t>(loop.index + 1);
    loop.source = std::move(all);
    loop.statement = nullptr;
  }
  return static_cast<int64_t>(loop.source->items.size());
}

Interpreter::Flow Interpreter::run_loop(const Statement& statement, const ScopePtr& scope,
                                        const Value& iterable) {
  auto loop = std::make_shared<LoopObject>();
  loop->source = iterate(iterable);
  loop->statement = &statement;
  loop->scope = scope;
  const Value loop_value{std::shared_ptr<Object>(loop)};
  bool completed_one = false;
  Flow flow = Flow::normal;
  ScopePtr inside;
  while (auto item = pull(*loop)) {
    budget_.use_steps(8);  // a scope and its names cost what some evaluations do
    if (!inside || inside.use_count() > 1) {
      inside = inner_scope(scope);
    } else {
      inside->names.clear();
    }
    ++loop->index;
    loop->before = std::move(loop->current);
    loop->current = *item;
    inside->names["loop"] = loop_value;
    assign(*statement.target, *item, inside);
    const size_t begin = out_->size();
    flow = run(statement.body, inside);
    note_message(*item, begin);
    if (flow == Flow::stop) break;
    completed_one |= flow == Flow::normal;
  }
  // Jinja runs the else-body unless an iteration reached the end of the body: one left by break or
  // continue does not count.
  if (!completed_one && !statement.else_body.empty()) {
    return run(statement.else_body, inner_scope(scope));
  }
  return Flow::normal;
}

Value Interpreter::call_loop(const LoopObject& loop, const Arguments& arguments) {
  if (!loop.statement || !loop.statement->recursive) {
    raise("The loop must have the 'recursive' marker to be called recursively.");
  }
  const auto given = match(arguments, "loop", {"iterable"}, 1);
  const Statement& statement = *loop.statement;
  const ScopePtr scope = loop.scope;
  const Value iterable = *given[0];
  return string(capture([&] { run_loop(statement, scope, iterable); }));
}

Value Interpreter::call_macro(const MacroObject& macro, const Arguments& arguments) {
  const DepthGuard guard(*this);
  const MacroDefinition& definition = *macro.definition;
  const auto scope = inner_scope(macro.scope);
  std::vector<std::pair<std::string, Value>> named = arguments.named;
  const auto take = [&](const std::string& name) -> std::optional<Value> {
    for (size_t i = 0; i < named.size(); ++i) {
      if (named[i].first != name) continue;
      std::optional<Value> value(std::move(named[i].second));
      named.erase(named.begin() + static_cast<std::ptrdiff_t>(i));
      return value;
    }
    return std::nullopt;
  };
  const size_t count = definition.parameters.size();
  bool explicit_caller = false;
  std::vector<std::optional<Value>> given(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = definition.parameters[i];
    explicit_caller |= name == "caller";
    given[i] = i < arguments.positional.size() ? std::optional<Value>(arguments.positional[i])
                                               : take(name);
  }
  if (definition.uses_caller && !explicit_caller) {
    scope->names["caller"] = take("caller").value_or(Value::undefined("No caller defined"));
  }
  if (!definition.uses_kwargs && !named.empty()) {
    raise("macro '{}' takes no keyword argument '{}'", definition.name, named[0].first);
  }
  if (!definition.uses_varargs && arguments.positional.size() > count) {
    raise("macro '{}' takes not more than {} argument(s)", definition.name, count);
  }
  for (size_t i = 0; i < count; ++i) {
    const std::string& name = definition.parameters[i];
    const size_t without_default = count - definition.defaults.size();
    if (given[i]) {
      scope->names[name] = std::move(*given[i]);
    } else if (i >= without_default) {
      scope->names[name] = evaluate(*definition.defaults[i - without_default], scope);
    } else {
      scope->names[name] = Value::undefined(fmt::format("parameter '{}' was not provided", name));
    }
  }
  if (definition.uses_kwargs) {
    std::vector<std::pair<Value, Value>> entries;
    for (auto& [name, value] : named) entries.emplace_back(Value(name), std::move(value));
    scope->names["kwargs"] = make_map(std::move(entries), budget_);
  }
  if (definition.uses_varargs) {
    const size_t extra = std::min(count, arguments.positional.size());
    scope->names["varargs"] =
        make_sequence(SequenceKind::tuple,
                      {arguments.positional.begin() + static_cast<std::ptrdiff_t>(extra),
                       arguments.positional.end()},
                      budget_);
  }
  return string(capture([&] { run(definition.body, scope); }));
}

Value Interpreter::loop_attribute(const std::shared_ptr<LoopObject>& loop,
                                  const std::string& name) {
  if (name == "index") return Value(loop->index + 1);
  if (name == "index0") return Value(loop->index);
  if (name == "first") return Value(loop->index == 0);
  if (name == "length") return Value(loop_length(*loop));
  if (name == "last" || name == "nextitem") {
    if (!loop->after) loop->after = pull(*loop);
    if (name == "last") return Value(!loop->after.has_value());
    return loop->after.value_or(Value::undefined("there is no next item"));
  }
  if (name == "previtem") {
    return loop->index == 0 || !loop->before ? Value::undefined("there is no previous item")
                                             : *loop->before;
  }
  return Value::undefined(fmt::format("'LoopContext' has no attribute '{}'", name));
}

}  // namespace heddle::text::jinja
