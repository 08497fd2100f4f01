// heddle info: what this build can do on this machine.
#include "backend/cuda/device.h"
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

text::Value gpus() {
  const backend::cuda::DeviceReport report = backend::cuda::find_devices();
  std::vector<text::Value> devices;
  for (const backend::cuda::DeviceInfo& device : report.devices)
    devices.push_back(
        text::Value::map({{"device", "cuda:" + std::to_string(device.index)},
                          {"name", device.name},
                          {"memory_bytes", device.memory_bytes},
                          {"capability", fmt::format("{}.{}", device.major, device.minor)}}));
  return text::Value::map({{"devices", text::Value::list(std::move(devices))},
                           {"driver", report.driver},
                           {"missing", report.missing}});
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
                           {"cuda", gpus()},
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
  const text::Value& cuda = *body.find("cuda");
  for (const text::Value& device : cuda.find("devices")->items())
    fmt::print("{:<10} {}, {:.1f} GiB, compute capability {}, driver for CUDA {}\n",
               device.find("device")->as_string(), device.find("name")->as_string(),
               static_cast<double>(device.find("memory_bytes")->as_int()) / (1 << 30),
               device.find("capability")->as_string(), cuda.find("driver")->as_string());
  if (cuda.find("devices")->items().empty())
    fmt::print("{:<10} none: {}\n", "cuda", cuda.find("missing")->as_string());
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
