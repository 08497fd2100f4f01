// heddle bench: speed of prompt reading and decoding at depths, beside the machine's limits
// measured in the same run.
#include <unistd.h>

#include "bench/gpu_kernels.h"
#include "bench/kernels.h"
#include "bench/rows.h"
#include "bench/step.h"
#include "cli/common.h"

namespace heddle::cli {
namespace {

bench::Output output_of(bool json) { return bench::Output(json || isatty(STDOUT_FILENO) == 0); }

// A file or random weights, and how to load them.
struct Subject {
  std::string model;
  std::string preset;
  ModelFlags load;

  // The two options of which one is given.
  std::vector<Option> add_to(Command command) {
    const Option file =
        command.option("-m,--model", model, "Model directory, GGUF file or Hugging Face name");
    const Option random =
        command.option("--preset", preset, "Random weights in published shapes: NAME[:q4_0|:q8_0]");
    file.excludes(random);
    return {file, random};
  }
  const std::string& name() const { return model.empty() ? preset : model; }
  Result<std::unique_ptr<model::Model>> get() {
    ThreadPool pool(ThreadPool::available_cpus());
    if (preset.empty()) return load_model(load, model, pool);
    return model::Model::preset(preset, load.options(), pool);
  }
};

struct BenchFlags {
  Subject subject;
  bench::StepOptions steps;
  bool greedy = false;
  bool json = false;
};

int run(BenchFlags& flags) {
  auto model = flags.subject.get();
  if (!model) return report(model.error());
  flags.steps.kernels = flags.subject.load.kernel_set();
  if (flags.greedy) flags.steps.sampling.temperature = 0;
  bench::run_steps(**model, flags.subject.name(), flags.steps, output_of(flags.json));
  return 0;
}

template <class T>
Option add_list(Command command, const char* name, std::vector<T>& list, const char* text) {
  return command.option(name, list, text).separated_by(',').show_default();
}

// heddle bench step
void add_rows(Command bench) {
  struct Flags {
    Subject subject;
    bench::RowOptions options;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  Command command = bench.subcommand(
      "step", "A step of several sequences, one token each, against a step of one");
  const std::vector<Option> subject = flags->subject.add_to(command);
  bench::RowOptions& options = flags->options;
  add_list(command, "--rows", options.rows, "Numbers of sequences").between(1, 1024);
  add_list(command, "-d,--depth", options.depths, "Tokens that every sequence has read before")
      .between(0, 1 << 24);
  add_list(command, "-t,--threads", options.threads,
           "Numbers of threads (default: all CPUs of this process)")
      .between(1, 1024);
  command.option("-r,--repetitions", options.repetitions, "Counted runs of each")
      .between(1, 1000)
      .show_default();
  command.option("--json", flags->json,
                 "JSON lines on a terminal too (elsewhere they are what is printed)");
  flags->subject.load.add_to(command);
  command.footer("Example: heddle bench step --preset smollm2-135m:q4_0 --rows 1,2,4,8,16");
  command.runs(
      [flags] {
        auto model = flags->subject.get();
        if (!model) return report(model.error());
        flags->options.kernels = flags->subject.load.kernel_set();
        bench::run_rows(**model, flags->subject.name(), flags->options, output_of(flags->json));
        return 0;
      },
      subject);
}

// heddle bench kernels
void add_kernels(Command bench) {
  struct Flags {
    bench::KernelOptions options;
    std::string device = "cpu";
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  Command command = bench.subcommand(
      "kernels", "Each kernel against its reference (error over budget) and its limit");
  command.option("--only", flags->options.only,
                 "Cases whose kernel and shape hold this text, as 'matmul q4_0'");
  command.option("--device", flags->device, "cpu, or a GPU: cuda:0").show_default();
  command.option("-t,--threads", flags->options.threads, "Threads (default: all CPUs)")
      .between(1, 1024);
  command.option("--seconds", flags->options.seconds, "Measured time of each case")
      .between_numbers(0.0, 60.0)
      .show_default();
  add_target_option(command);
  command.option("--json", flags->json, "JSON lines on a terminal too");
  command.footer("Example: heddle bench kernels --only 'matmul q4_0' --target avx2");
  command.runs([flags] {
    const bench::Output output = output_of(flags->json);
    if (flags->device == "cpu") {
      bench::run_kernels(flags->options, output);
      return 0;
    }
    const Status status = bench::run_gpu_kernels(flags->device, flags->options, output);
    return status ? 0 : report(status.error());
  });
}

}  // namespace

void add_bench(Command app) {
  auto flags = std::make_shared<BenchFlags>();
  Command command =
      app.subcommand("bench", "Measure prompt and decode speed against the machine's limits");
  const std::vector<Option> subject = flags->subject.add_to(command);
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
  flags->subject.load.add_to(command);
  command.footer("Example: heddle bench --preset lfm2-350m:q4_0 -p 512,8192 -n 128 -d 0,4096 -t 2");
  add_kernels(command);
  add_rows(command);
  command.runs([flags] { return run(*flags); }, subject);
}

}  // namespace heddle::cli
