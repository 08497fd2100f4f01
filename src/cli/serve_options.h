#pragma once
// The options of `heddle serve`: one table gives the flags, the keys of a configuration file, the
// HEDDLE_* variables, the help and the page in docs. Precedence: flag, variable, file, default.
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/common.h"
#include "engine/engine.h"
#include "server/http_server.h"

namespace heddle::cli {

struct ServeOptions {
  std::string model;
  std::string name;
  ModelFlags load;
  server::ServerOptions server;
  engine::EngineOptions engine;
  std::string api_key_file;
  double state_gib = 0;  // 0: chosen from the memory that is there
  std::string target;    // empty: the best one
  std::string log_format = "text";
  double drain_seconds = 30;

  ServeOptions();
};

struct ServeOption {
  enum class Kind : uint8_t { text, list, integer, number, toggle };
  using Values = std::vector<std::string>;

  std::string name;  // "max-body-bytes": flag --max-body-bytes, key max_body_bytes, variable
                     // HEDDLE_MAX_BODY_BYTES
  std::string group;
  std::string help;
  Kind kind = Kind::text;
  double low = 0, high = 0;                               // of numbers
  std::vector<std::string> choices;                       // of texts; empty: any
  std::function<void(ServeOptions&, const Values&)> set;  // values have been checked
  std::function<Values(const ServeOptions&)> get;
  bool secret = false;  // its values are not shown
  std::string short_flag;
  std::string metavar;

  std::string key() const;
  std::string variable() const;
};

const std::vector<ServeOption>& serve_option_table();

// What the sources say, by position in the table; nullopt: nothing.
using OptionValues = std::vector<std::optional<ServeOption::Values>>;

// A file of KEY = VALUE lines (TOML) or one JSON object, told apart by the first character.
// Unknown keys are refused with the nearest known one. `name` is for messages.
Result<OptionValues> parse_config(const std::string& text, const std::string& name);
// HEDDLE_* variables; `read` gives a variable's value. Errors name variables that begin like ours
// but are none.
Result<OptionValues> parse_environment(const std::vector<std::string>& environment);

struct OptionSource {
  std::string name;  // "a flag", "the environment", a file's name
  OptionValues values;
};
// Earlier sources win. Also returns where each value is from, by position in the table.
struct ResolvedOptions {
  ServeOptions options;
  std::vector<std::string> sources;
};
Result<ResolvedOptions> resolve_options(const std::vector<OptionSource>& sources);

// The effective values as a configuration file that gives them again; secrets are left out.
std::string config_text(const ResolvedOptions& resolved);
// The table of docs/server.md.
std::string options_markdown();
// The known word nearest to `word`; empty if none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace heddle::cli
