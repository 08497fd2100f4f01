// heddle inspect: what a model file is, without loading it.
#include <map>
#include <nlohmann/json.hpp>

#include "cli/common.h"
#include "model/weights.h"

namespace heddle::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  std::string model;
  bool json = false;
  ModelFlags load;
};

// Bytes that one sequence takes. per_token grows with every token; the others are bounded, given
// here at their largest.
struct StateBytes {
  int64_t per_token = 0;
  int64_t window = 0;
  int64_t folded = 0;
};

StateBytes state_bytes(const state::StateLayout& layout) {
  StateBytes bytes;
  for (const state::StateLayout::Entry& entry : layout.entries) {
    const state::StatePart& part = entry.part;
    switch (part.growth) {
      case state::Growth::per_token:
        bytes.per_token += part.record_bytes();
        break;
      case state::Growth::window: {
        // The window may begin anywhere in its first page.
        const int64_t pages = part.stores_whole_chunk()
                                  ? (part.window + part.page_records - 2) / part.page_records + 1
                                  : 1;
        bytes.window += pages * part.page_bytes();
        break;
      }
      case state::Growth::folded:
        bytes.folded += part.page_bytes() + part.summary_bytes();
        break;
    }
  }
  return bytes;
}

Result<Json> collect(const InspectFlags& flags) {
  HEDDLE_TRY(const std::string path, flags.load.resolve(flags.model));
  HEDDLE_TRY(const model::Checkpoint checkpoint, model::Checkpoint::open(path));
  const model::ModelSpec& spec = checkpoint.spec();
  const std::string kv_dtype = model::kv_dtype_of(flags.load.options());
  auto made = model::make_design(spec, kv_dtype);
  if (!made) return fail("{}: {}", path, made.error().message);
  HEDDLE_TRY_STATUS(model::check_weights(checkpoint, *made));
  Json body;
  body["path"] = path;
  body["name"] = spec.name;
  body["architecture"] = spec.arch;
  body["format"] = checkpoint.gguf() != nullptr ? "gguf" : "hugging_face";
  body["d_model"] = spec.d_model;
  body["vocab_size"] = spec.vocab_size;
  body["context_length"] = spec.context_length;
  body["tied_embedding"] = spec.tied;
  body["layers"] = spec.layers.size();
  std::map<std::string, std::vector<size_t>> by_mixer;
  for (size_t i = 0; i < spec.layers.size(); ++i) by_mixer[spec.layers[i].mixer].push_back(i);
  for (const auto& [mixer, layers] : by_mixer) body["layers_by_mixer"][mixer] = layers;
  int64_t parameters = 0;
  std::map<std::string, int64_t> by_dtype;
  for (const auto& [name, tensor] : checkpoint.tensors().all()) {
    parameters += tensor.elements();
    by_dtype[std::string(dtype_info(tensor.dtype).name)] += tensor.bytes;
  }
  body["parameters"] = parameters;
  body["file_bytes"] = checkpoint.file_bytes();
  body["bytes_by_dtype"] = by_dtype;
  const StateBytes state = state_bytes(made->layout);
  body["kv_dtype"] = kv_dtype;
  body["kv_bytes_per_token"] = state.per_token;
  body["state_bytes_per_sequence"] = {
      {"per_token_at_context", state.per_token * spec.context_length},
      {"window", state.window},
      {"folded", state.folded}};
  const Hash128 hash = checkpoint.hash();
  body["weight_hash"] = fmt::format("{:016x}{:016x}", hash.high, hash.low);
  return body;
}

void print(const Json& body) {
  const auto line = [](const char* title, const std::string& text) {
    fmt::print("{:<22} {}\n", title, text);
  };
  line("model", body["name"].get<std::string>());
  line("architecture", fmt::format("{} ({})", body["architecture"].get<std::string>(),
                                   body["format"].get<std::string>()));
  line("layers",
       fmt::format("{}, width {}", body["layers"].get<int64_t>(), body["d_model"].get<int64_t>()));
  for (const auto& [mixer, layers] : body["layers_by_mixer"].items()) {
    std::string numbers;
    for (const auto& layer : layers)
      numbers += (numbers.empty() ? "" : " ") + std::to_string(layer.get<int64_t>());
    line("", fmt::format("{:>3} {}: {}", layers.size(), mixer, numbers));
  }
  line("vocabulary", fmt::format("{}{}", body["vocab_size"].get<int64_t>(),
                                 body["tied_embedding"].get<bool>() ? ", tied output" : ""));
  line("context", std::to_string(body["context_length"].get<int64_t>()));
  line("parameters", fmt::format("{:.1f} M", body["parameters"].get<double>() / 1e6));
  std::string dtypes;
  for (const auto& [dtype, bytes] : body["bytes_by_dtype"].items())
    dtypes +=
        fmt::format("{}{} {}", dtypes.empty() ? "" : ", ", dtype, bytes_text(bytes.get<int64_t>()));
  line("bytes", dtypes);
  const Json& state = body["state_bytes_per_sequence"];
  line("KV bytes per token", fmt::format("{} ({})", body["kv_bytes_per_token"].get<int64_t>(),
                                         body["kv_dtype"].get<std::string>()));
  line("state per sequence", fmt::format("per token {} at full context, window {}, folded {}",
                                         bytes_text(state["per_token_at_context"].get<int64_t>()),
                                         bytes_text(state["window"].get<int64_t>()),
                                         bytes_text(state["folded"].get<int64_t>())));
  line("weight hash", body["weight_hash"].get<std::string>());
}

int run(const InspectFlags& flags) {
  const auto body = collect(flags);
  if (!body) return report(body.error());
  if (flags.json) {
    fmt::print("{}\n", body->dump(-1, ' ', false, Json::error_handler_t::replace));
    return 0;
  }
  print(*body);
  if (flags.load.verbose) {
    ThreadPool pool(flags.load.thread_count());
    const auto model = load_model(flags.load, flags.model, pool);
    if (!model) return report(model.error());
  }
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Show what a model is and what it takes; refuses files that cannot be run");
  command->add_option("model", flags->model, "Model directory, GGUF file or Hugging Face name")
      ->required();
  command->add_flag("--json", flags->json, "Print JSON");
  flags->load.add_to(*command);
  command->footer(
      "Nothing is loaded, but with --verbose: then time and memory of loading are shown.\n"
      "Example: heddle inspect model.gguf --json");
  command->callback([flags] { throw CLI::RuntimeError(run(*flags)); });
}

}  // namespace heddle::cli
