#pragma once
// What the subcommands share: flags about the model and the machine, errors, and the table that
// main goes through. A subcommand is a file NAME.cpp with `void add_NAME(Command app)`.
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/context.h"
#include "backend/target.h"
#include "base/mmap_file.h"
#include "base/result.h"
#include "cli/common_command.h"
#include "engine/sampling.h"
#include "model/model.h"
#include "serving/runtime.h"

namespace heddle::cli {

// Generated: one entry per file.
std::span<const AddSubcommand> subcommand_table();

// Prints the error and gives the exit status of a failure.
int report(const Error& error);

// --target, which chooses the instruction set at once.
Option add_target_option(Command command);

// How a model is loaded and computed.
struct ModelFlags {
  int threads = 0;  // 0: every CPU that this process may use
  std::string dtype = "auto";
  std::string quantize;
  std::string kv_dtype;
  std::string kernels = "cpu";
  bool verbose = false;

  // Flags that the command has already are left to it.
  void add_to(Command command);
  // With progress on stderr: on a terminal where loading takes a while, always with --verbose.
  model::LoadOptions options() const;
  backend::KernelSet kernel_set() const;
  int thread_count() const;
  // A path, or a name in the Hugging Face cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub).
  Result<std::string> resolve(const std::string& model) const;
  // With --verbose: seconds and memory, on stderr.
  void report_loaded(const std::string& path, const model::Model& model) const;

 private:
  std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now();
};

// How an answer is chosen.
struct SamplingFlags {
  engine::SamplingParams params;

  // Defaults shown are those that `params` holds now.
  void add_to(Command command);
};

// What every front-end of the engine is loaded with; the command fills in the rest.
serving::RuntimeOptions runtime_options(const ModelFlags& flags);
// Finds and loads a model for a command that answers in this process.
Result<std::unique_ptr<serving::Runtime>> load_runtime(const ModelFlags& flags,
                                                       const std::string& model);

// Loads with progress and figures on stderr, as the flags say.
Result<std::unique_ptr<model::Model>> load_model(const ModelFlags& flags, const std::string& model,
                                                 ThreadPool& pool);

// Token ids of a JSON file: a list, or an object with a list "ids".
Result<std::vector<int32_t>> read_ids(const std::string& path);
// Those of a list; `name` is for messages.
Result<std::vector<int32_t>> token_ids(const text::Value& list, const std::string& name);

// "97.9 MB", "1.24 GB": powers of ten.
std::string bytes_text(int64_t bytes);

// Resident memory of this process in bytes: now and at its highest.
struct Resident {
  int64_t now = 0;
  int64_t peak = 0;
};
Resident resident_memory();

}  // namespace heddle::cli
