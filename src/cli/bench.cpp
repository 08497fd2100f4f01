// heddle bench: speed of prompt reading and decoding at depths, beside the machine's limits
// measured in the same run.
#include <unistd.h>

#include "bench/kernels.h"
#include "bench/step.h"
#include "cli/common.h"

namespace heddle::cli {
namespace {

struct BenchFlags {
  std::string model;
  std::string preset;
  bench::StepOptions steps;
  bool json = false;
  ModelFlags load;
};

bench::Output output_of(bool json) { return bench::Output(json || isatty(STDOUT_FILENO) == 0); }

int run(BenchFlags& flags) {
  ThreadPool pool(ThreadPool::available_cpus());
  auto model = flags.preset.empty()
                   ? load_model(flags.load, flags.model, pool)
                   : model::Model::preset(flags.preset, flags.load.options(), pool);
  if (!model) return report(model.error());
  flags.steps.kernels = flags.load.kernel_set();
  bench::run_steps(**model, flags.model.empty() ? flags.preset : flags.model, flags.steps,
                   output_of(flags.json));
  return 0;
}

template <class T>
CLI::Option* add_list(CLI::App& command, const char* name, std::vector<T>& list, const char* text) {
  return command.add_option(name, list, text)->delimiter(',')->capture_default_str();
}

// heddle bench kernels
void add_kernels(CLI::App& bench) {
  struct Flags {
    bench::KernelOptions options;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand(
      "kernels", "Each kernel against its reference (error over budget) and its limit");
  command->add_option("--only", flags->options.only,
                      "Cases whose kernel and shape hold this text, as 'matmul q4_0'");
  command->add_option("-t,--threads", flags->options.threads, "Threads (default: all CPUs)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--seconds", flags->options.seconds, "Measured time of each case")
      ->check(CLI::Range(0.0, 60.0))
      ->capture_default_str();
  add_target_option(*command);
  command->add_flag("--json", flags->json, "JSON lines on a terminal too");
  command->footer("Example: heddle bench kernels --only 'matmul q4_0' --target avx2");
  command->callback([flags] {
    bench::run_kernels(flags->options, output_of(flags->json));
    throw CLI::RuntimeError(0);
  });
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command =
      app.add_subcommand("bench", "Measure prompt and decode speed against the machine's limits");
  auto* model = command->add_option("-m,--model", flags->model,
                                    "Model directory, GGUF file or Hugging Face name");
  auto* preset = command->add_option("--preset", flags->preset,
                                     "Random weights in published shapes: NAME[:q4_0|:q8_0]");
  model->excludes(preset);
  bench::StepOptions& steps = flags->steps;
  add_list(*command, "-p,--prompt", steps.prompts, "Prompt lengths (0: none)");
  add_list(*command, "-n,--output", steps.outputs, "Numbers of decoded tokens (0: none)");
  add_list(*command, "-d,--depth", steps.depths, "Tokens already read before each test");
  add_list(*command, "-t,--threads", steps.threads,
           "Numbers of threads (default: all CPUs of this process)")
      ->check(CLI::Range(1, 1024));
  command->add_option("-r,--repetitions", steps.repetitions, "Counted runs of each test")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--chunk", steps.chunk, "Prompt tokens of one step")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_flag("--profile", steps.profile,
                    "Also where the time goes: each part's seconds, share and part of its limit");
  command->add_flag("--json", flags->json,
                    "JSON lines on a terminal too (elsewhere they are what is printed)");
  flags->load.add_to(*command);
  command->footer(
      "Example: heddle bench --preset lfm2-350m:q4_0 -p 512,8192 -n 128 -d 0,4096 -t 2");
  add_kernels(*command);
  command->callback([flags, command] {
    if (!command->get_subcommands().empty()) return;
    if (flags->model.empty() && flags->preset.empty())
      throw CLI::RequiredError("--model or --preset");
    throw CLI::RuntimeError(run(*flags));
  });
}

}  // namespace heddle::cli
