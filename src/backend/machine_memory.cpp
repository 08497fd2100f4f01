#include "backend/machine_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>

namespace heddle::backend {
namespace {

std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

// "NAME VALUE" or "NAME: VALUE kB" of a file with a line each.
int64_t field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string key;
    std::string unit;
    int64_t value = 0;
    words >> key >> value >> unit;
    if (key == name) return unit == "kB" ? value * 1024 : value;
  }
  return 0;
}

// The path of this process in a hierarchy: v2 has number 0 and no controllers.
std::string group_path(const std::string& root, const std::string& controller) {
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controller.empty() ? names == ",,"
                           : names.find("," + controller + ",") != std::string::npos)
      return line.substr(second + 1);
  }
  return "/";
}

void limit_by(MachineMemory& memory, std::optional<int64_t> limit, std::optional<int64_t> used,
              int64_t reclaimable) {
  // v1 writes "no limit" as a number near 2^63.
  if (!limit || *limit <= 0 || *limit >= memory.total) return;
  memory.total = *limit;
  memory.limited = true;
  const int64_t held = std::max<int64_t>(0, used.value_or(0) - reclaimable);
  memory.available = std::min(memory.available, std::max<int64_t>(0, *limit - held));
}

// A group's limit holds for all below it, so every level counts. Inside a container the path of
// the outside may not exist; the mount's root then is the group.
void limit_by_groups(MachineMemory& memory, const std::string& mount, std::string path, bool v2) {
  while (true) {
    const std::string folder = mount + (path == "/" ? "" : path);
    if (v2) {
      limit_by(memory, read_number(folder + "/memory.max"), read_number(folder + "/memory.current"),
               field(folder + "/memory.stat", "inactive_file"));
    } else {
      limit_by(memory, read_number(folder + "/memory.limit_in_bytes"),
               read_number(folder + "/memory.usage_in_bytes"),
               field(folder + "/memory.stat", "total_inactive_file"));
    }
    if (path.empty() || path == "/") return;
    path = path.substr(0, path.rfind('/'));
    if (path.empty()) path = "/";
  }
}

}  // namespace

MachineMemory machine_memory(const std::string& root) {
  MachineMemory memory;
  memory.total = field(root + "/proc/meminfo", "MemTotal:");
  memory.available = field(root + "/proc/meminfo", "MemAvailable:");
  limit_by_groups(memory, root + "/sys/fs/cgroup", group_path(root, ""), true);
  limit_by_groups(memory, root + "/sys/fs/cgroup/memory", group_path(root, "memory"), false);
  return memory;
}

}  // namespace heddle::backend
