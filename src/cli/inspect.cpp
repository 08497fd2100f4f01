// heddle inspect: what a model file is, without loading it.
#include <map>

#include "cli/common.h"
#include "model/weights.h"
#include "text/template/value.h"
#include "text/utf8.h"

namespace heddle::cli {
namespace {

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

Result<text::Value> collect(const InspectFlags& flags) {
  HEDDLE_TRY(const std::string path, flags.load.resolve(flags.model));
  HEDDLE_TRY(const model::Checkpoint checkpoint, model::Checkpoint::open(path));
  const model::ModelSpec& spec = checkpoint.spec();
  HEDDLE_TRY(const sublayer::StatePrecision precision,
             model::state_precision(flags.load.options()));
  auto made = model::make_design(spec, precision);
  if (!made) return fail("{}: {}", path, made.error().message);
  HEDDLE_TRY_STATUS(model::check_weights(checkpoint, *made));
  std::map<std::string, std::vector<text::Value>> layers_by_mixer;
  for (const model::SubLayerDesign& sub : made->sub)
    if (sub.parts > 0) layers_by_mixer[sub.spec->kind].emplace_back(sub.owner.layer);
  int64_t parameters = 0;
  std::map<std::string, int64_t> by_dtype;
  for (const auto& [name, tensor] : checkpoint.tensors().all()) {
    parameters += tensor.elements();
    by_dtype[std::string(dtype_info(tensor.dtype).name)] += tensor.bytes;
  }
  std::vector<std::pair<text::Value, text::Value>> mixers;
  for (auto& [mixer, layers] : layers_by_mixer)
    mixers.emplace_back(mixer, text::Value::list(std::move(layers)));
  const StateBytes state = state_bytes(made->layout);
  const Hash128 hash = checkpoint.hash();
  return text::Value::map(
      {{"path", text::sanitize_utf8(path)},
       {"name", text::sanitize_utf8(spec.name)},
       {"architecture", spec.arch},
       {"format", checkpoint.gguf() != nullptr ? "gguf" : "hugging_face"},
       {"d_model", spec.d_model},
       {"vocab_size", spec.vocab_size},
       {"context_length", spec.context_length},
       {"tied_embedding", spec.tied},
       {"layers", std::ssize(spec.layers)},
       {"layers_by_mixer", text::Value::map(std::move(mixers))},
       {"parameters", parameters},
       {"file_bytes", checkpoint.file_bytes()},
       {"bytes_by_dtype", text::Value::map({by_dtype.begin(), by_dtype.end()})},
       {"kv_dtype", dtype_info(precision.records).name},
       {"kv_bytes_per_token", state.per_token},
       {"state_bytes_per_sequence",
        text::Value::map({{"per_token_at_context", state.per_token * spec.context_length},
                          {"window", state.window},
                          {"folded", state.folded}})},
       {"weight_hash", fmt::format("{:016x}{:016x}", hash.high, hash.low)}});
}

void print(const text::Value& body) {
  const auto line = [](const char* title, const std::string& text) {
    fmt::print("{:<22} {}\n", title, text);
  };
  const auto text_of = [&](const char* key) { return body.find(key)->as_string(); };
  const auto number = [&](const char* key) { return body.find(key)->as_int(); };
  line("model", text_of("name"));
  line("architecture", fmt::format("{} ({})", text_of("architecture"), text_of("format")));
  line("layers", fmt::format("{}, width {}", number("layers"), number("d_model")));
  for (const auto& [mixer, layers] : body.find("layers_by_mixer")->as_map().entries) {
    std::string numbers;
    for (const text::Value& layer : layers.items())
      numbers += (numbers.empty() ? "" : " ") + std::to_string(layer.as_int());
    line("", fmt::format("{:>3} {}: {}", layers.items().size(), mixer.as_string(), numbers));
  }
  line("vocabulary", fmt::format("{}{}", number("vocab_size"),
                                 body.find("tied_embedding")->as_bool() ? ", tied output" : ""));
  line("context", std::to_string(number("context_length")));
  line("parameters", fmt::format("{:.1f} M", static_cast<double>(number("parameters")) / 1e6));
  std::string dtypes;
  for (const auto& [dtype, bytes] : body.find("bytes_by_dtype")->as_map().entries)
    dtypes += fmt::format("{}{} {}", dtypes.empty() ? "" : ", ", dtype.as_string(),
                          bytes_text(bytes.as_int()));
  line("bytes", dtypes);
  const text::Value& state = *body.find("state_bytes_per_sequence");
  line("KV bytes per token",
       fmt::format("{} ({})", number("kv_bytes_per_token"), text_of("kv_dtype")));
  line("state per sequence", fmt::format("per token {} at full context, window {}, folded {}",
                                         bytes_text(state.find("per_token_at_context")->as_int()),
                                         bytes_text(state.find("window")->as_int()),
                                         bytes_text(state.find("folded")->as_int())));
  line("weight hash", text_of("weight_hash"));
}

int run(const InspectFlags& flags) {
  const auto body = collect(flags);
  if (!body) return report(body.error());
  if (flags.json) {
    fmt::print("{}\n", *text::to_json(*body));
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

void add_inspect(Command app) {
  auto flags = std::make_shared<InspectFlags>();
  Command command = app.subcommand(
      "inspect", "Show what a model is and what it takes; refuses files that cannot be run");
  command.option("model", flags->model, "Model directory, GGUF file or Hugging Face name")
      .required();
  command.option("--json", flags->json, "Print JSON");
  flags->load.add_to(command);
  command.footer(
      "Nothing is loaded, but with --verbose: then time and memory of loading are shown.\n"
      "Example: heddle inspect model.gguf --json");
  command.runs([flags] { return run(*flags); });
}

}  // namespace heddle::cli
