#include <charconv>

#include "backend/cuda/device.h"
#include "backend/cuda/status.cuh"
#include "base/check.h"
#include "base/round_up.h"

namespace heddle::backend::cuda {
namespace {

constexpr int kLeastMajor = 8;  // the kernels copy asynchronously and multiply bf16

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// Why the runtime finds no device.
std::string reason(cudaError_t error, int driver) {
  if (driver == 0) return "no NVIDIA driver was found on this machine";
  if (error == cudaErrorInsufficientDriver)
    return fmt::format("the NVIDIA driver serves CUDA {}, this build needs {} or later",
                       version_text(driver), version_text(CUDART_VERSION / 1000 * 1000));
  if (error == cudaErrorNoDevice) return "the NVIDIA driver finds no device";
  return fmt::format("the NVIDIA driver reports: {}", cudaGetErrorString(error));
}

class DeviceMemory final : public Memory {
 public:
  explicit DeviceMemory(int index) : index_(index) {}

  Result<std::byte*> map(int64_t bytes, std::string_view what) override {
    HEDDLE_CHECK(bytes > 0, "a mapping of {} bytes", bytes);
    const auto size = static_cast<size_t>(round_up(bytes, kHugePage));
    void* data = nullptr;
    HEDDLE_TRY_STATUS(status_of(cudaSetDevice(index_), "choosing the device"));
    const cudaError_t error = cudaMalloc(&data, size);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // told here, and no kernel's
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      return fail("out of memory: cuda:{} refused {} bytes for {} ({} of {} bytes are free)",
                  index_, size, what, free, total);
    }
    HEDDLE_TRY_STATUS(status_of(error, "taking memory"));
    cudaError_t cleared = cudaMemset(data, 0, size);
    // Streams of ours do not wait for it, so it is waited for here.
    if (cleared == cudaSuccess) cleared = cudaStreamSynchronize(nullptr);
    if (Status zeroed = status_of(cleared, "clearing memory"); !zeroed) {
      cudaFree(data);
      return tl::unexpected(zeroed.error());
    }
    return static_cast<std::byte*>(data);
  }
  // An error here is one of an earlier kernel, and comes again with the next call.
  void unmap(std::byte* data, int64_t) override { cudaFree(data); }
  bool host() const override { return false; }

 private:
  int index_;
};

class PinnedMemory final : public Memory {
 public:
  Result<std::byte*> map(int64_t bytes, std::string_view what) override {
    HEDDLE_CHECK(bytes > 0, "a mapping of {} bytes", bytes);
    const auto size = static_cast<size_t>(round_up(bytes, kHugePage));
    void* data = nullptr;
    const cudaError_t error = cudaHostAlloc(&data, size, cudaHostAllocPortable);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return fail("out of memory: the system refused {} bytes in place for {}", size, what);
    }
    HEDDLE_TRY_STATUS(status_of(error, "taking host memory"));
    std::fill_n(static_cast<std::byte*>(data), size, std::byte{0});
    return static_cast<std::byte*>(data);
  }
  void unmap(std::byte* data, int64_t) override { cudaFreeHost(data); }
  bool host() const override { return true; }
};

class OpenDevice final : public Device {
 public:
  explicit OpenDevice(DeviceInfo info) : info_(std::move(info)), memory_(info_.index) {}
  const DeviceInfo& info() const override { return info_; }
  Memory& memory() override { return memory_; }
  Memory& pinned_memory() override { return pinned_; }

 private:
  DeviceInfo info_;
  DeviceMemory memory_;
  PinnedMemory pinned_;
};

DeviceInfo describe(int index) {
  DeviceInfo info;
  info.index = index;
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) return info;
  info.name = properties.name;
  info.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.l2_bytes = properties.l2CacheSize;
  return info;
}

// The number in "cuda:3"; "cuda" is the first.
Result<int> index_of(std::string_view name) {
  int index = 0;
  if (name == "cuda") return index;
  constexpr std::string_view kPrefix = "cuda:";
  if (name.substr(0, kPrefix.size()) == kPrefix) {
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, index);
    if (parsed.ec == std::errc() && parsed.ptr == end && index >= 0) return index;
  }
  return fail("device '{}' is none: expected cuda:0, cuda:1, ...", name);
}

}  // namespace

DeviceReport find_devices() {
  DeviceReport report;
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0)
    report.driver = version_text(driver);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    report.missing = reason(error == cudaSuccess ? cudaErrorNoDevice : error, driver);
    return report;
  }
  for (int i = 0; i < count; ++i) report.devices.push_back(describe(i));
  return report;
}

Result<std::unique_ptr<Device>> open_device(std::string_view name, int64_t needed_bytes) {
  HEDDLE_TRY(const int index, index_of(name));
  const DeviceReport report = find_devices();
  if (!report.missing.empty()) return fail("device {}: {}", name, report.missing);
  const auto count = static_cast<int>(report.devices.size());
  if (index >= count)
    return fail("device {}: this machine has {}, the last is cuda:{}", name, count, count - 1);
  DeviceInfo info = report.devices[static_cast<size_t>(index)];
  if (info.major < kLeastMajor)
    return fail("device {}: {} has compute capability {}.{}, the kernels need {}.0", name,
                info.name, info.major, info.minor, kLeastMajor);
  HEDDLE_TRY_STATUS(status_of(cudaSetDevice(index), "opening the device"));
  size_t free = 0, total = 0;
  HEDDLE_TRY_STATUS(status_of(cudaMemGetInfo(&free, &total), "opening the device"));
  info.free_bytes = static_cast<int64_t>(free);
  if (needed_bytes > info.free_bytes)
    return fail("device {}: {} bytes are needed, {} of {} are free", name, needed_bytes, free,
                total);
  return std::make_unique<OpenDevice>(std::move(info));
}

}  // namespace heddle::backend::cuda
