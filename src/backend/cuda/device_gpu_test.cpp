#include <algorithm>

#include "backend/cuda/device.h"
#include "test/support/gpu.h"

namespace heddle::backend::cuda {
namespace {

using DeviceGpu = test::Gpu;

TEST(DeviceReport, SaysWhatIsThereOrWhyNot) {
  const DeviceReport report = find_devices();
  EXPECT_EQ(report.devices.empty(), !report.missing.empty());
  for (const DeviceInfo& device : report.devices) EXPECT_FALSE(device.name.empty());
}

TEST(OpenDevice, NamesThatAreNone) {
  for (const char* name : {"cuda:9999", "cuda:", "cuda:x", "cuda:-1", "cuda:0x", "gpu", ""}) {
    const auto device = open_device(name);
    ASSERT_FALSE(device) << name;
    EXPECT_NE(device.error().message.find(name), std::string::npos) << device.error().message;
  }
}

TEST_F(DeviceGpu, TooLittleMemoryIsSaidWithTheNumbers) {
  const auto refused = open_device("cuda:0", int64_t{1} << 50);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("1125899906842624 bytes are needed"), std::string::npos)
      << refused.error().message;
}

TEST_F(DeviceGpu, MemoryIsZeroAndRefusalsAreErrors) {
  for (Memory* memory : {&device().memory(), &device().pinned_memory()}) {
    const auto mapping = Mapping::of(*memory, 3 * kHugePage - 5, "a test");
    ASSERT_TRUE(mapping) << mapping.error().message;
    std::vector<std::byte> read(static_cast<size_t>(mapping->bytes()), std::byte{1});
    ASSERT_TRUE(stream().copy(read.data(), mapping->data(), mapping->bytes()));
    ASSERT_TRUE(stream().wait());
    EXPECT_EQ(std::count(read.begin(), read.end(), std::byte{0}), mapping->bytes());
  }
  EXPECT_FALSE(device().memory().host());
  const auto refused = Mapping::of(device().memory(), int64_t{1} << 50, "a test");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("1125899906842624 bytes for a test"), std::string::npos)
      << refused.error().message;
  EXPECT_TRUE(Mapping::of(device().memory(), 1, "what is asked for next"));
}

TEST_F(DeviceGpu, MemoryIsZeroBeforeAnyStreamWrites) {
  for (int i = 0; i < 50; ++i) {
    const test::GpuArray<uint8_t> bytes(device(), stream(), size_t{256} << 20);
    ASSERT_TRUE(stream().fill(bytes.data() + (size_t{256} << 20) - 1, 7, 1));
    ASSERT_TRUE(stream().wait());
    uint8_t last = 0;
    ASSERT_TRUE(stream().copy(&last, bytes.data() + (size_t{256} << 20) - 1, 1));
    ASSERT_TRUE(stream().wait());
    ASSERT_EQ(last, 7);
  }
}

TEST_F(DeviceGpu, AGraphRunsWhenItIsLaunched) {
  const test::GpuArray<uint8_t> bytes(device(), stream(), std::vector<uint8_t>(100, 1));
  const auto graph = Graph::capture(stream(), [&] { return stream().fill(bytes.data(), 7, 50); });
  ASSERT_TRUE(graph) << graph.error().message;
  EXPECT_EQ(bytes.read()[0], 1);
  ASSERT_TRUE(graph->launch(stream()));
  const auto after = bytes.read();
  EXPECT_EQ(std::count(after.begin(), after.end(), 7), 50);
}

TEST_F(DeviceGpu, AGraphThatCannotBeRecordedLeavesTheStream) {
  const auto graph = Graph::capture(stream(), [] { return Status(fail("no")); });
  ASSERT_FALSE(graph);
  EXPECT_EQ(graph.error().message, "no");
  EXPECT_TRUE(stream().wait());
}

TEST_F(DeviceGpu, MarksTellTheTimeBetweenThem) {
  const test::GpuArray<uint8_t> bytes(device(), stream(), size_t{1} << 30);
  const auto begin = Mark::make();
  const auto end = Mark::make();
  ASSERT_TRUE(begin && end);
  ASSERT_TRUE(begin->set(stream()));
  ASSERT_TRUE(stream().fill(bytes.data(), 1, int64_t{1} << 30));
  ASSERT_TRUE(end->set(stream()));
  const auto seconds = end->seconds_since(*begin);
  ASSERT_TRUE(seconds) << seconds.error().message;
  EXPECT_GT(*seconds, 1e-5);
  EXPECT_LT(*seconds, 1);
}

}  // namespace
}  // namespace heddle::backend::cuda
