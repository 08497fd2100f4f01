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
  bool greedy = false;
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
  if (flags.greedy) flags.steps.sampling.temperature = 0;
  bench::run_steps(**model, flags.model.empty() ? flags.preset : flags.model, flags.steps,
                   output_of(flags.json));
  return 0;
}

template <class T>
Option add_list(Command command, const char* name, std::vector<T>& list, const char* text) {
  return command.option(name, list, text).separated_by(',').show_default();
}

// heddle bench kernels
void add_kernels(Command bench) {
  struct Flags {
    bench::KernelOptions options;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  Command command = bench.subcommand(
      "kernels", "Each kernel against its reference (error over budget) and its limit");
  command.option("--only", flags->options.only,
                 "Cases whose kernel and shape hold this text, as 'matmul q4_0'");
  command.option("-t,--threads", flags->options.threads, "Threads (default: all CPUs)")
      .between(1, 1024);
  command.option("--seconds", flags->options.seconds, "Measured time of each case")
      .between_numbers(0.0, 60.0)
      .show_default();
  add_target_option(command);
  command.option("--json", flags->json, "JSON lines on a terminal too");
  command.footer("Example: heddle bench kernels --only 'matmul q4_0' --target avx2");
  command.runs([flags] {
    bench::run_kernels(flags->options, output_of(flags->json));
    return 0;
  });
}

}  // namespace

void add_bench(Command app) {
  auto flags = std::make_shared<BenchFlags>();
  Command command =
      app.subcommand("bench", "Measure prompt and decode speed against the machine's limits");
  const Option model =
      command.option("-m,--model", flags->model, "Model directory, GGUF file or Hugging Face name");
  const Option preset = command.option("--preset", flags->preset,
                                       "Random weights in published shapes: NAME[:q4_0|:q8_0]");
  model.excludes(preset);
  bench::StepOptions& steps = flags->steps;
  add_list(command, "-p,--prompt", steps.prompts, "Prompt lengths (0: none)");
  add_list(command, "-n,--output", steps.outputs, "Numbers of decoded tokens (0: none)");
  add_list(command, "-d,--depth", steps.depths, "Tokens already read before each test");
  add_list(command, "-t,--threads", steps.threads,
           "Numbers of threads (default: all CPUs of this process)")
      .between(1, 1024);
  command.option("-r,--repetitions", steps.repetitions, "Counted runs of each test")
      .between(1, 1000)
      .show_default();
  command.option("--chunk", steps.chunk, "Prompt tokens of one step")
      .between(2, 1 << 20)
      .show_default();
  command.option("--greedy", flags->greedy,
                 "Take the likeliest token of each step (default: sample as the server does)");
  command.option("--profile", steps.profile,
                 "Also where the time goes: each part's seconds, share and part of its limit");
  command.option("--json", flags->json,
                 "JSON lines on a terminal too (elsewhere they are what is printed)");
  flags->load.add_to(command);
  command.footer("Example: heddle bench --preset lfm2-350m:q4_0 -p 512,8192 -n 128 -d 0,4096 -t 2");
  add_kernels(command);
  command.runs([flags] { return run(*flags); }, {model, preset});
}

}  // namespace heddle::cli
