#include "cli/common.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "text/template/value.h"

namespace heddle::cli {
namespace {

using Clock = std::chrono::steady_clock;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string hugging_face_cache() {
  if (const std::string hub = environment("HF_HUB_CACHE"); !hub.empty()) return hub;
  if (const std::string home = environment("HF_HOME"); !home.empty()) return home + "/hub";
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty())
    return cache + "/huggingface/hub";
  const std::string home = environment("HOME");
  return home.empty() ? std::string() : home + "/.cache/huggingface/hub";
}

}  // namespace

int report(const Error& error) {
  fmt::print(stderr, "heddle: {}\n", error.message);
  return 1;
}

Option add_target_option(Command command) {
  return command.checked_option(
      "--target", [](const std::string& name) { return backend::use_target(name); },
      "Instruction set: auto, or one that `heddle info` lists");
}

void ModelFlags::add_to(Command command) {
  const auto group = [](Option option) { return option.group("Computation"); };
  if (!command.has("--threads"))
    group(command.option("--threads", threads, "Threads (default: all CPUs of this process)"))
        .between(1, 1024);
  group(command.option("--dtype", dtype,
                       "auto: as the file stores it; f32: weights and state in float32"))
      .one_of({"auto", "f32"})
      .show_default();
  group(command.option("--quantize", quantize, "Quantise float weights on load"))
      .one_of({"q8_0", "q4_0"});
  group(command.option("--kv-dtype", kv_dtype, "Keys and values (default: bf16)"))
      .one_of({"bf16", "f32"});
  group(command.option("--kernels", kernels,
                       "cpu: the fast ones; reference: the float64 specification"))
      .one_of({"cpu", "reference"})
      .show_default();
  group(add_target_option(command));
  group(command.option("-v,--verbose", verbose, "Show progress and memory while loading"));
}

model::LoadOptions ModelFlags::options() const {
  model::LoadOptions options;
  options.full_precision = dtype == "f32";
  if (!quantize.empty()) options.quantize = dtype_from_name(quantize).value_or(DType::f32);
  options.kv_dtype = kv_dtype;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  if (!verbose && !terminal) return options;
  // On a terminal, only where one would wait.
  const double quiet = verbose ? 0.0 : 1.0;
  options.progress = [quiet, terminal, start = Clock::now()](int64_t done, int64_t layers) {
    if (std::chrono::duration<double>(Clock::now() - start).count() < quiet) return;
    if (terminal) {
      fmt::print(stderr, "\rloading: layer {} of {} ", done, layers);
      if (done == layers) fmt::print(stderr, "\r\033[K");
    } else if (done == layers || done * 10 / layers != (done - 1) * 10 / layers) {
      fmt::print(stderr, "loading: layer {} of {}\n", done, layers);
    }
    std::fflush(stderr);
  };
  return options;
}

backend::KernelSet ModelFlags::kernel_set() const {
  return kernels == "reference" ? backend::KernelSet::reference : backend::KernelSet::cpu;
}

int ModelFlags::thread_count() const {
  return threads > 0 ? threads : ThreadPool::available_cpus();
}

void ModelFlags::report_loaded(const std::string& path, const model::Model& model) const {
  if (!verbose) return;
  const std::chrono::duration<double> seconds = Clock::now() - made_;
  const Resident resident = resident_memory();
  fmt::print(stderr, "{}: loaded {:.2f} s after the start; weights {}, resident {} (peak {})\n",
             path, seconds.count(), bytes_text(model.weight_bytes()), bytes_text(resident.now),
             bytes_text(resident.peak));
}

Result<std::string> ModelFlags::resolve(const std::string& model) const {
  return model::find_model(model, {hugging_face_cache()});
}

void SamplingFlags::add_to(Command command) {
  const auto number = [command](const char* name, auto& value, const char* help) {
    command.option(name, value, help).group("Sampling").show_default();
  };
  number("--temperature", params.temperature, "0 always takes the likeliest token");
  number("--top-k", params.top_k, "Keep the k likeliest (0: all)");
  number("--top-p", params.top_p, "Keep the likeliest with this much probability");
  number("--min-p", params.min_p, "Keep those at least this likely beside the likeliest");
  number("--repetition-penalty", params.repetition_penalty, "Above 1: repeat less");
  number("--seed", params.seed, "The same seed gives the same text");
}

serving::RuntimeOptions runtime_options(const ModelFlags& flags) {
  serving::RuntimeOptions options;
  options.load = flags.options();
  options.kernels = flags.kernel_set();
  options.threads = flags.threads;
  return options;
}

Result<std::unique_ptr<serving::Runtime>> load_runtime(const ModelFlags& flags,
                                                       const std::string& model) {
  HEDDLE_TRY(const std::string path, flags.resolve(model));
  auto runtime = serving::Runtime::load(path, runtime_options(flags));
  if (runtime) flags.report_loaded(path, (*runtime)->model());
  return runtime;
}

Result<std::unique_ptr<model::Model>> load_model(const ModelFlags& flags, const std::string& model,
                                                 ThreadPool& pool) {
  HEDDLE_TRY(const std::string path, flags.resolve(model));
  auto loaded = model::Model::load(path, flags.options(), pool);
  if (loaded) flags.report_loaded(path, **loaded);
  return loaded;
}

Result<std::vector<int32_t>> read_ids(const std::string& path) {
  HEDDLE_TRY(const std::string text, read_text_file(path));
  const auto json = text::parse_json(text);
  if (!json) return fail("{}: {}", path, json.error().message);
  const text::Value* inner = json->find("ids");
  return token_ids(inner != nullptr ? *inner : *json, path);
}

Result<std::vector<int32_t>> token_ids(const text::Value& list, const std::string& name) {
  if (!list.is_list())
    return fail("{}: expected a JSON list of token ids, or an object with \"ids\"", name);
  std::vector<int32_t> ids;
  for (const text::Value& item : list.items()) {
    if (!item.is_int() || item.as_int() < 0 || item.as_int() > INT32_MAX)
      return fail("{}: entry {} of the list is not a token id", name, ids.size());
    ids.push_back(static_cast<int32_t>(item.as_int()));
  }
  return ids;
}

std::string bytes_text(int64_t bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1000 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.4g} {}", value, units[unit]);
}

Resident resident_memory() {
  Resident result;
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    const auto kilobytes = [&](size_t prefix) {
      return static_cast<int64_t>(std::strtoll(line.c_str() + prefix, nullptr, 10)) * 1024;
    };
    if (line.starts_with("VmRSS:")) result.now = kilobytes(6);
    if (line.starts_with("VmHWM:")) result.peak = kilobytes(6);
  }
  return result;
}

}  // namespace heddle::cli
