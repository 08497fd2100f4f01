// heddle: one binary, one file per subcommand.
#include "base/memory_reserve.h"
#include "base/out_of_memory.h"
#include "cli/common.h"

int main(int argc, char** argv) {
  heddle::keep_memory_back();
  try {
    return heddle::cli::run_command_line(
        heddle::cli::subcommand_table(),
        "Run language models whose layers mix full attention with efficient attention.\n"
        "`heddle COMMAND --help` shows the flags of a command and an example.",
        "heddle " HEDDLE_VERSION, argc, argv);
  } catch (const std::bad_alloc& error) {
    return heddle::cli::report(heddle::memory_error(error, "the command ran"));
  }
}
