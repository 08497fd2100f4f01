// heddle info: what this build can do on this machine.
#include "cli/common.h"
#include "model/presets.h"
#include "sublayer/kind_table.h"
#include "sublayer/sublayer.h"
#include "text/template/value.h"

namespace heddle::cli {
namespace {

template <class Names>
text::Value list_of(const Names& names) {
  return text::Value::list({names.begin(), names.end()});
}

text::Value collect() {
  std::vector<text::Value> kinds;
  for (const sublayer::Kind* kind : sublayer::kind_table()) kinds.emplace_back(kind->name);
  std::vector<std::pair<text::Value, text::Value>> families;
  for (const model::Family* family : model::family_table()) {
    families.emplace_back(family->name,
                          text::Value::map({{"hugging_face", list_of(family->hugging_face)},
                                            {"gguf", list_of(family->gguf)}}));
  }
  return text::Value::map({{"version", HEDDLE_VERSION},
                           {"cpus", ThreadPool::available_cpus()},
                           {"target", std::string_view(backend::active_target())},
                           {"targets", list_of(backend::supported_targets())},
                           {"sub_layers", text::Value::list(std::move(kinds))},
                           {"families", text::Value::map(std::move(families))},
                           {"presets", list_of(model::preset_names())}});
}

void print(const text::Value& body) {
  const auto list = [&](const char* title, const std::vector<text::Value>& items) {
    std::string line;
    for (const text::Value& item : items) line += (line.empty() ? "" : ", ") + item.as_string();
    fmt::print("{:<10} {}\n", title, line);
  };
  fmt::print("heddle     {}\n", body.find("version")->as_string());
  fmt::print("cpus       {}\n", body.find("cpus")->as_int());
  list("targets", body.find("targets")->items());
  list("sub-layers", body.find("sub_layers")->items());
  for (const auto& [name, family] : body.find("families")->as_map().entries)
    list("family", {name.as_string() + ":", family.find("hugging_face")->items().at(0)});
  list("presets", body.find("presets")->items());
}

}  // namespace

void add_info(Command app) {
  auto json = std::make_shared<bool>(false);
  Command command = app.subcommand("info", "What this build can do on this machine");
  command.option("--json", *json, "Print JSON");
  command.footer("Example: heddle info --json");
  command.runs([json] {
    const text::Value body = collect();
    if (*json)
      fmt::print("{}\n", *text::to_json(body));
    else
      print(body);
    return 0;
  });
}

}  // namespace heddle::cli
