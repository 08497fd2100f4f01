#pragma once
// What tests with the label gpu share: the device or the reason to skip, and arrays on it.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/stream.h"

namespace heddle::test {

// Skips, and says why, where no device can be opened.
class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    auto device = backend::cuda::open_device("cuda:0");
    if (!device) GTEST_SKIP() << "NO GPU, NOTHING WAS TESTED: " << device.error().message;
    device_ = std::move(*device);
    auto stream = backend::cuda::Stream::make();
    ASSERT_TRUE(stream) << stream.error().message;
    stream_.emplace(std::move(*stream));
  }

  backend::cuda::Device& device() { return *device_; }
  const backend::cuda::Stream& stream() { return *stream_; }

 private:
  std::unique_ptr<backend::cuda::Device> device_;
  std::optional<backend::cuda::Stream> stream_;
};

// `count` elements on a device.
template <class T>
class GpuArray {
 public:
  GpuArray(backend::cuda::Device& device, const backend::cuda::Stream& stream, size_t count)
      : stream_(stream), count_(count) {
    auto mapping = backend::Mapping::of(
        device.memory(), static_cast<int64_t>(std::max<size_t>(count, 1) * sizeof(T)), "a test");
    EXPECT_TRUE(mapping) << mapping.error().message;
    if (mapping) mapping_ = std::move(*mapping);
  }
  GpuArray(backend::cuda::Device& device, const backend::cuda::Stream& stream,
           const std::vector<T>& values)
      : GpuArray(device, stream, values.size()) {
    check(stream_.copy(data(), values.data(), static_cast<int64_t>(count_ * sizeof(T))));
    check(stream_.wait());
  }
  T* data() const { return reinterpret_cast<T*>(mapping_.data()); }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    check(stream_.copy(values.data(), data(), static_cast<int64_t>(count_ * sizeof(T))));
    check(stream_.wait());
    return values;
  }

 private:
  static void check(const Status& status) {
    EXPECT_TRUE(status) << (status ? "" : status.error().message);
  }
  const backend::cuda::Stream& stream_;
  size_t count_;
  backend::Mapping mapping_;
};

// What outputs hold before a kernel runs.
inline std::vector<float> poison(size_t count) {
  return std::vector<float>(count, std::numeric_limits<float>::quiet_NaN());
}

}  // namespace heddle::test
