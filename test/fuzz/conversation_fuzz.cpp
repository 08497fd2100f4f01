// Bytes of a saved conversation from outside: as they come, and under a checksum made valid so that
// the parser behind it is reached. What is accepted must encode to the same conversation.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "server/conversation_file.h"

namespace {

using namespace heddle;          // NOLINT
using namespace heddle::server;  // NOLINT

void try_decode(const std::vector<std::byte>& bytes) {
  const auto file = decode_conversation(bytes, "input");
  if (!file) return;
  const auto again = encode_conversation(*file);
  if (!again) std::abort();
  const auto back = decode_conversation(*again, "again");
  if (!back || back->messages != file->messages || back->snapshot != file->snapshot) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  try_decode(bytes);
  if (size <= 16) return 0;
  const Hash128 checksum = hash128(std::span(bytes).first(size - 16));
  std::memcpy(bytes.data() + size - 16, &checksum.low, 8);
  std::memcpy(bytes.data() + size - 8, &checksum.high, 8);
  try_decode(bytes);
  return 0;
}
