// What a build without HEDDLE_CUDA answers.
#include "backend/cuda/device.h"

namespace heddle::backend::cuda {
namespace {

constexpr const char* kMissing = "built without CUDA (cmake --preset cuda builds with it)";

}  // namespace

DeviceReport find_devices() {
  DeviceReport report;
  report.missing = kMissing;
  return report;
}

Result<std::unique_ptr<Device>> open_device(std::string_view name, int64_t) {
  return fail("device {}: {}", name, kMissing);
}

}  // namespace heddle::backend::cuda
