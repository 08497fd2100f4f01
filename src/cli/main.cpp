// heddle: one binary, one file per subcommand.
#include "base/memory_reserve.h"
#include "base/out_of_memory.h"
#include "cli/common.h"

int main(int argc, char** argv) {
  CLI::App app(
      "Run language models whose layers mix full attention with efficient attention.\n"
      "`heddle COMMAND --help` shows the flags of a command and an example.");
  app.require_subcommand(1);
  app.set_version_flag("--version", "heddle " HEDDLE_VERSION);
  app.get_formatter()->column_width(34);
  for (const heddle::cli::AddSubcommand add : heddle::cli::subcommand_table()) add(app);
  heddle::keep_memory_back();
  try {
    CLI11_PARSE(app, argc, argv);
  } catch (const std::bad_alloc& error) {
    return heddle::cli::report(heddle::memory_error(error, "the command ran"));
  }
  return 0;
}
