// heddle info: what this build can do on this machine.
#include <nlohmann/json.hpp>

#include "cli/common.h"
#include "model/presets.h"
#include "sublayer/kind_table.h"
#include "sublayer/sublayer.h"

namespace heddle::cli {
namespace {

nlohmann::ordered_json collect() {
  nlohmann::ordered_json body;
  body["version"] = HEDDLE_VERSION;
  body["cpus"] = ThreadPool::available_cpus();
  body["target"] = backend::active_target();
  body["targets"] = backend::supported_targets();
  for (const sublayer::Kind* kind : sublayer::kind_table()) body["mixers"].push_back(kind->name);
  for (const model::Family* family : model::family_table()) {
    nlohmann::ordered_json entry;
    entry["hugging_face"] =
        std::vector<std::string_view>(family->hugging_face.begin(), family->hugging_face.end());
    entry["gguf"] = std::vector<std::string_view>(family->gguf.begin(), family->gguf.end());
    body["families"][std::string(family->name)] = std::move(entry);
  }
  body["presets"] = model::preset_names();
  return body;
}

void print(const nlohmann::ordered_json& body) {
  const auto list = [&](const char* title, const nlohmann::ordered_json& items) {
    std::string line;
    for (const auto& item : items) line += (line.empty() ? "" : ", ") + item.get<std::string>();
    fmt::print("{:<10} {}\n", title, line);
  };
  fmt::print("heddle     {}\n", body["version"].get<std::string>());
  fmt::print("cpus       {}\n", body["cpus"].get<int>());
  list("targets", body["targets"]);
  list("mixers", body["mixers"]);
  for (const auto& [name, family] : body["families"].items())
    list("family", nlohmann::ordered_json{name + ":", family["hugging_face"][0]});
  list("presets", body["presets"]);
}

}  // namespace

void add_info(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("info", "What this build can do on this machine");
  command->add_flag("--json", *json, "Print JSON");
  command->footer("Example: heddle info --json");
  command->callback([json] {
    const nlohmann::ordered_json body = collect();
    if (*json)
      fmt::print("{}\n", body.dump());
    else
      print(body);
  });
}

}  // namespace heddle::cli
