#pragma once
// What a subcommand says about its flags. The library behind it (CLI11) is seen by
// common_command.cpp alone: its headers cost every file that includes them ten seconds of a
// compiler.
//
// Command and Option are handles, copied freely; the command line owns what they stand for. A
// variable bound to an option outlives the parsing.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace heddle::cli {

class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  Option required() const;
  Option between(int64_t low, int64_t high) const;
  Option between_numbers(double low, double high) const;
  Option at_least(int64_t low) const;
  Option one_of(const std::vector<std::string>& words) const;
  Option separated_by(char separator) const;  // of a list
  Option show_default() const;                // in the help: what the variable holds now
  Option group(const std::string& title) const;
  Option value_name(const std::string& name) const;
  Option excludes(Option other) const;
  // What the help and messages call it: "--model".
  std::string name() const;
  bool given() const;

 private:
  CLI::Option* option_;
};

class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}

  Command subcommand(const std::string& name, const std::string& help) const;
  // "-m,--model" or, of a positional one, "model". T: std::string, bool (a flag without a value),
  // int, int64_t, uint64_t, float, double, or a vector of std::string, int or int64_t.
  template <class T>
  Option option(const std::string& names, T& value, const std::string& help) const;
  // The value goes through `take`, whose error refuses the command line.
  Option checked_option(const std::string& names,
                        std::function<Status(const std::string& value)> take,
                        const std::string& help) const;
  // Each value given, one per flag.
  Option repeated_option(const std::string& names,
                         std::function<void(const std::vector<std::string>& values)> take,
                         const std::string& help) const;
  // Names after '!' say no: "--cache,!--no-cache".
  Option toggle(const std::string& names, std::function<void(bool)> take,
                const std::string& help) const;
  bool has(const std::string& name) const;
  // Below the help.
  void footer(const std::string& text) const;
  // Arguments that no option takes are kept instead of refused.
  void allow_others() const;
  std::vector<std::string> others() const;
  // What the command does; gives the exit status. Of the options `any_of`, one must be given.
  void runs(std::function<int()> run, std::vector<Option> any_of = {}) const;

 private:
  CLI::App* app_;
};

using AddSubcommand = void (*)(Command app);

// Parses the arguments and runs the subcommand that they name; gives the exit status.
int run_command_line(std::span<const AddSubcommand> subcommands, const std::string& description,
                     const std::string& version, int argc, char** argv);

}  // namespace heddle::cli
