// Bytes of a saved conversation from outside: as they come, and under a checksum made valid so that
// the parser behind it is reached. What is accepted must encode to the same conversation.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "serving/conversation_file.h"
#include "test/fuzz/sealed.h"

namespace {

using namespace heddle;           // NOLINT
using namespace heddle::serving;  // NOLINT

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
  heddle::test::as_is_and_sealed(data, size, try_decode);
  return 0;
}
