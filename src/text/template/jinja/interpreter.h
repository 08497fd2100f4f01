#pragma once
// Runs a template's syntax tree. One Interpreter renders once, on one thread, within a Budget.
// Scoping follows Jinja: loops, macros, call, filter, set and generation blocks have scopes of
// their own; if-branches have not. Internal to src/text; raises PythonError.
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/template/jinja/ast.h"
#include "text/template/jinja/filters.h"
#include "text/template/value_python.h"

namespace heddle::text::jinja {

struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> names;
};

struct NamespaceObject : Object {
  std::vector<std::pair<std::string, Value>> attributes;
  std::string_view type_name() const override { return "Namespace"; }
};

struct MacroObject : Object {
  const MacroDefinition* definition = nullptr;
  std::shared_ptr<Scope> scope;
  std::string_view type_name() const override { return "Macro"; }
};

// A built-in function: `call` gets the arguments; methods carry their receiver.
struct FunctionObject : Object {
  std::string name;
  std::function<Value(Interpreter&, const Arguments&)> call;
  std::string_view type_name() const override { return "builtin_function_or_method"; }
};

// The `loop` variable. Items are pulled one at a time, since the condition of a loop may depend on
// its body.
struct LoopObject : Object {
  std::shared_ptr<const Sequence> source;
  size_t taken = 0;  // of source
  const Statement* statement = nullptr;
  std::shared_ptr<Scope> scope;  // around the loop; null once it has ended
  int64_t index = -1;            // of the current item
  std::optional<Value> before, current, after;
  std::string_view type_name() const override { return "LoopContext"; }
};

class Interpreter {
 public:
  struct Limits {
    int64_t steps = 20'000'000;
    int64_t bytes = int64_t{1} << 30;
    int64_t output_bytes = int64_t{1} << 26;
    int depth = 1500;  // evaluations inside one another
  };

  Interpreter(const Limits& limits, std::optional<std::tm> now);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // With `messages`, whose items are among the variables, ends() is known afterwards.
  std::string render(const Body& body, std::vector<std::pair<std::string, Value>> variables,
                     const Value& messages = {});
  // Where each message ends in the text: the byte at which a loop over messages goes on to the next
  // one, or ends. -1 of a message that no loop wrote to the text itself. Never decreasing.
  std::vector<int64_t> ends() const;

  // What filters, tests and methods need.
  Budget& budget() { return budget_; }
  const std::optional<std::tm>& now() const { return now_; }
  Value call(const Value& function, const Arguments& arguments);
  Value call_filter(std::string_view name, const Value& input, const Arguments& arguments);
  bool call_test(std::string_view name, const Value& input, const Arguments& arguments);
  Value attribute(const Value& object, const std::string& name);  // object.name
  Value item(const Value& object, const Value& key);              // object[key]
  // The items that `for` would see; consumes iterators.
  std::shared_ptr<const Sequence> iterate(const Value& value);
  Value string(std::string text) { return make_string(std::move(text), budget_); }
  Value list(std::vector<Value> items) { return make_list(std::move(items), budget_); }
  std::string text_of(const Value& value) { return str(value, budget_); }
  bool equals(const Value& a, const Value& b) { return equal(a, b, budget_); }
  bool contains(const Value& container, const Value& item);
  std::shared_ptr<NamespaceObject> make_namespace();
  // Refuses to build text of more than the output limit before it is built.
  void check_size(int64_t bytes) const;

 private:
  enum class Flow { normal, stop, skip };
  class DepthGuard;
  using ScopePtr = std::shared_ptr<Scope>;

  Flow run(const Body& body, const ScopePtr& scope);
  Flow run(const Statement& statement, const ScopePtr& scope);
  Flow run_if(const Statement& statement, const ScopePtr& scope);
  Flow run_set_block(const Statement& statement, const ScopePtr& scope);
  Flow run_filter_block(const Statement& statement, const ScopePtr& scope);
  Flow run_with(const Statement& statement, const ScopePtr& scope);
  Flow run_for(const Statement& statement, const ScopePtr& scope);
  Flow run_loop(const Statement& statement, const ScopePtr& scope, const Value& iterable);
  void run_call_block(const Statement& statement, const ScopePtr& scope);
  void define_macro(const Statement& statement, const ScopePtr& scope);
  void assign(const Expression& target, const Value& value, const ScopePtr& scope);
  void write(std::string_view text);
  // What `produce` writes, and how it ended.
  template <class Produce>
  std::string capture(const Produce& produce);

  Value evaluate(const Expression& expression, const ScopePtr& scope);
  Value evaluate_node(const Expression& expression, const ScopePtr& scope);
  Value evaluate_name(const Expression& expression, const ScopePtr& scope);
  Value evaluate_call(const Expression& expression, const ScopePtr& scope);
  Value evaluate_filter(const Expression& expression, const ScopePtr& scope, const Value* block);
  Value evaluate_test(const Expression& expression, const ScopePtr& scope);
  Value evaluate_compare(const Expression& expression, const ScopePtr& scope);
  Value evaluate_slice(const Expression& expression, const ScopePtr& scope);
  Value evaluate_condition(const Expression& expression, const ScopePtr& scope);
  Value evaluate_container(const Expression& expression, const ScopePtr& scope);
  Value evaluate_concat(const Expression& expression, const ScopePtr& scope);
  Arguments evaluate_arguments(const CallArguments& arguments, const ScopePtr& scope);
  Value call_macro(const MacroObject& macro, const Arguments& arguments);
  Value call_loop(const LoopObject& loop, const Arguments& arguments);
  // What the iteration over `item` wrote, from byte `begin` of the text, if it is a message.
  void note_message(const Value& item, size_t begin);
  std::optional<Value> pull(LoopObject& loop);
  int64_t loop_length(LoopObject& loop);
  Value object_attribute(const Value& object, const std::string& name);
  Value loop_attribute(const std::shared_ptr<LoopObject>& loop, const std::string& name);
  Value global(const std::string& name);
  ScopePtr inner_scope(const ScopePtr& parent);

  Limits limits_;
  Budget budget_;
  std::optional<std::tm> now_;
  std::string* out_ = nullptr;
  const std::string* text_ = nullptr;  // the text itself, where out_ may be a part put aside
  // By the identity of a message: its place, and where the last iteration that wrote it stands.
  struct Written {
    size_t index = 0;
    int64_t begin = -1, end = -1;
  };
  std::unordered_map<const void*, Written> messages_;
  size_t message_count_ = 0;
  int depth_ = 0;
  // References can run in circles through these two only; the destructor cuts them.
  std::vector<ScopePtr> captured_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
  std::unordered_map<std::string, Value> globals_;
};

// operators.cpp
Value binary(Interpreter& in, const std::string& op, const Value& a, const Value& b);
Value slice(Interpreter& in, const Value& value, const Value& start, const Value& stop,
            const Value& step);
Value item_at(Interpreter& in, const Value& sequence, int64_t index);  // undefined if out of range
// methods.cpp: the bound method `name` of a string, list, dict or number; nothing if there is
// none. Methods that change a list or dict are there but refuse to run, as in Jinja's immutable
// sandbox.
std::optional<Value> method(const Value& receiver, const std::string& name);
// str.replace; a negative count replaces all.
std::string replace_text(Interpreter& in, const std::string& text, const std::string& old,
                         const std::string& fresh, int64_t count);
// globals.cpp: range, namespace, raise_exception, ...
std::unordered_map<std::string, Value> make_globals();
Value make_function(std::string name, std::function<Value(Interpreter&, const Arguments&)> call);
// format.cpp
std::string format_braces(Interpreter& in, const std::string& format, const Arguments& arguments);
// Integers as Python takes them: bool and int pass, anything else raises with `what`.
int64_t to_integer(const Value& value, std::string_view what);
std::string escape_html(std::string_view text);

}  // namespace heddle::text::jinja
