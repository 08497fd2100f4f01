// Replays a corpus through a fuzz target without a fuzzer, so that every build checks that the
// inputs found so far are still handled: each file as it is, cut short at many places, and with
// single bytes damaged. usage: NAME_fuzz FILE_OR_FOLDER...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t kCuts = 24;
constexpr size_t kDamages = 48;

// Exact-size heap copies: a read past the end is then an error that AddressSanitizer sees.
void run(const uint8_t* data, size_t size) {
  const std::vector<uint8_t> copy(data, data + size);
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

void replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)),
                             std::istreambuf_iterator<char>());
  run(bytes.data(), bytes.size());
  for (size_t i = 0; i < kCuts && i < bytes.size(); ++i)
    run(bytes.data(), bytes.size() * i / kCuts);
  for (size_t i = 0; i < kDamages && i < bytes.size(); ++i) {
    const size_t at = bytes.size() <= kDamages ? i : bytes.size() * i / kDamages;
    const uint8_t kept = bytes[at];
    bytes[at] = static_cast<uint8_t>(kept ^ (0x01u << (i % 8)));
    run(bytes.data(), bytes.size());
    bytes[at] = 0xff;
    run(bytes.data(), bytes.size());
    bytes[at] = kept;
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> inputs;
  for (int i = 1; i < argc; ++i) {
    std::error_code error;
    if (std::filesystem::is_directory(argv[i], error)) {
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
        if (entry.is_regular_file()) inputs.push_back(entry.path());
      }
    } else if (std::filesystem::is_regular_file(argv[i], error)) {
      inputs.emplace_back(argv[i]);
    }
  }
  if (inputs.empty()) {
    std::fprintf(stderr, "%s: no input files; a fuzz target needs a corpus\n", argv[0]);
    return 1;
  }
  std::sort(inputs.begin(), inputs.end());
  run(nullptr, 0);
  for (const auto& path : inputs) {
    std::printf("%s\n", path.filename().c_str());
    std::fflush(stdout);
    replay(path);
  }
  std::printf("%zu inputs replayed\n", inputs.size());
  return 0;
}
