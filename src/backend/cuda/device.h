#pragma once
// NVIDIA GPUs: what is there, and one of them opened. Part of every build: without CUDA all say so.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/memory.h"
#include "base/result.h"

namespace heddle::backend::cuda {

struct DeviceInfo {
  int index = 0;  // "cuda:0"
  std::string name;
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t l2_bytes = 0;
};

struct DeviceReport {
  std::vector<DeviceInfo> devices;
  std::string driver;   // highest CUDA version that it serves, "13.0"; empty: no driver
  std::string missing;  // why there are no devices; empty: there are
};
DeviceReport find_devices();

// A device opened: its memory, and host memory that it reaches.
class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  // host() is false.
  virtual Memory& memory() = 0;
  // Main memory that stays in place, so that copies to and from the device need no help.
  virtual Memory& pinned_memory() = 0;
};

// `name` "cuda:0" (or "cuda", the first). An error says what is missing: a driver, a newer one, the
// device, `needed_bytes` of free memory.
Result<std::unique_ptr<Device>> open_device(std::string_view name, int64_t needed_bytes = 0);

}  // namespace heddle::backend::cuda
