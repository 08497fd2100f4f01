#include "cli/common.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

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

bool has_option(CLI::App& command, const char* name) {
  return command.get_option_no_throw(name) != nullptr;
}

}  // namespace

int report(const Error& error) {
  fmt::print(stderr, "heddle: {}\n", error.message);
  return 1;
}

CLI::Option* add_target_option(CLI::App& command) {
  return command.add_option_function<std::string>(
      "--target",
      [](const std::string& name) {
        const Status used = backend::use_target(name);
        if (!used) throw CLI::ValidationError("--target", used.error().message);
      },
      "Instruction set: auto, or one that `heddle info` lists");
}

void ModelFlags::add_to(CLI::App& command) {
  const auto group = [](CLI::Option* option) { return option->group("Computation"); };
  if (!has_option(command, "--threads"))
    group(command.add_option("--threads", threads, "Threads (default: all CPUs of this process)"))
        ->check(CLI::Range(1, 1024));
  group(command.add_option("--dtype", dtype,
                           "auto: as the file stores it; f32: weights and state in float32"))
      ->check(CLI::IsMember({"auto", "f32"}))
      ->capture_default_str();
  group(command.add_option("--quantize", quantize, "Quantise float weights on load"))
      ->check(CLI::IsMember({"q8_0", "q4_0"}));
  group(command.add_option("--kv-dtype", kv_dtype, "Keys and values (default: bf16)"))
      ->check(CLI::IsMember({"bf16", "f32"}));
  group(command.add_option("--kernels", kernels,
                           "cpu: the fast ones; reference: the float64 specification"))
      ->check(CLI::IsMember({"cpu", "reference"}))
      ->capture_default_str();
  group(add_target_option(command));
  group(command.add_flag("-v,--verbose", verbose, "Show progress and memory while loading"));
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

void SamplingFlags::add_to(CLI::App& command) {
  const auto number = [&command](const char* name, auto& value, const char* help) {
    command.add_option(name, value, help)->group("Sampling")->capture_default_str();
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
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_object() && json.contains("ids")) json = nlohmann::json(json["ids"]);
  if (!json.is_array())
    return fail("{}: expected a JSON list of token ids, or an object with \"ids\"", path);
  std::vector<int32_t> ids;
  for (const auto& item : json) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() > INT32_MAX)
      return fail("{}: entry {} of the list is not a token id", path, ids.size());
    ids.push_back(item.get<int32_t>());
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
