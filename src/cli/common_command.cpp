#include "cli/common_command.h"

#include <CLI/CLI.hpp>
#include <limits>
#include <type_traits>
#include <utility>

namespace heddle::cli {

Option Option::required() const {
  option_->required();
  return *this;
}

Option Option::between(int64_t low, int64_t high) const {
  option_->check(CLI::Range(low, high));
  return *this;
}

Option Option::between_numbers(double low, double high) const {
  option_->check(CLI::Range(low, high));
  return *this;
}

Option Option::at_least(int64_t low) const {
  const std::string title = ">= " + std::to_string(low);
  option_->check(CLI::Range(low, std::numeric_limits<int64_t>::max(), title));
  return *this;
}

Option Option::one_of(const std::vector<std::string>& words) const {
  option_->check(CLI::IsMember(words));
  return *this;
}

Option Option::separated_by(char separator) const {
  option_->delimiter(separator);
  return *this;
}

Option Option::show_default() const {
  option_->capture_default_str();
  return *this;
}

Option Option::group(const std::string& title) const {
  option_->group(title);
  return *this;
}

Option Option::value_name(const std::string& name) const {
  option_->type_name(name);
  return *this;
}

Option Option::excludes(Option other) const {
  option_->excludes(other.option_);
  return *this;
}

std::string Option::name() const { return option_->get_name(); }

bool Option::given() const { return option_->count() > 0; }

Command Command::subcommand(const std::string& name, const std::string& help) const {
  return Command(app_->add_subcommand(name, help));
}

template <class T>
Option Command::option(const std::string& names, T& value, const std::string& help) const {
  if constexpr (std::is_same_v<T, bool>) {
    return Option(app_->add_flag(names, value, help));
  } else {
    return Option(app_->add_option(names, value, help));
  }
}
template Option Command::option(const std::string&, std::string&, const std::string&) const;
template Option Command::option(const std::string&, bool&, const std::string&) const;
template Option Command::option(const std::string&, int&, const std::string&) const;
template Option Command::option(const std::string&, int64_t&, const std::string&) const;
template Option Command::option(const std::string&, uint64_t&, const std::string&) const;
template Option Command::option(const std::string&, float&, const std::string&) const;
template Option Command::option(const std::string&, double&, const std::string&) const;
template Option Command::option(const std::string&, std::vector<std::string>&,
                                const std::string&) const;
template Option Command::option(const std::string&, std::vector<int>&, const std::string&) const;
template Option Command::option(const std::string&, std::vector<int64_t>&,
                                const std::string&) const;

Option Command::checked_option(const std::string& names,
                               std::function<Status(const std::string& value)> take,
                               const std::string& help) const {
  return Option(app_->add_option_function<std::string>(
      names,
      [take = std::move(take), names](const std::string& value) {
        if (const Status taken = take(value); !taken)
          throw CLI::ValidationError(names, taken.error().message);
      },
      help));
}

Option Command::repeated_option(const std::string& names,
                                std::function<void(const std::vector<std::string>& values)> take,
                                const std::string& help) const {
  CLI::Option* option =
      app_->add_option_function<std::vector<std::string>>(names, std::move(take), help);
  return Option(option->type_size(1)->allow_extra_args(false));
}

Option Command::toggle(const std::string& names, std::function<void(bool)> take,
                       const std::string& help) const {
  return Option(app_->add_flag_function(
      names, [take = std::move(take)](int64_t count) { take(count > 0); }, help));
}

bool Command::has(const std::string& name) const {
  return app_->get_option_no_throw(name) != nullptr;
}

void Command::footer(const std::string& text) const { app_->footer(text); }

void Command::allow_others() const { app_->allow_extras(); }

std::vector<std::string> Command::others() const { return app_->remaining(); }

void Command::runs(std::function<int()> run, std::vector<Option> any_of) const {
  app_->callback([app = app_, run = std::move(run), any_of = std::move(any_of)] {
    if (!app->get_subcommands().empty()) return;
    std::string names;
    bool given = any_of.empty();
    for (const Option& option : any_of) {
      given |= option.given();
      names += (names.empty() ? "" : " or ") + option.name();
    }
    if (!given) throw CLI::RequiredError(names);
    throw CLI::RuntimeError(run());
  });
}

int run_command_line(std::span<const AddSubcommand> subcommands, const std::string& description,
                     const std::string& version, int argc, char** argv) {
  CLI::App app(description);
  app.require_subcommand(1);
  app.set_version_flag("--version", version);
  app.get_formatter()->column_width(34);
  for (const AddSubcommand add : subcommands) add(Command(&app));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return 0;
}

}  // namespace heddle::cli
