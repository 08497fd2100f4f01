// Bytes of a snapshot from outside: as they come, and under a checksum made valid so that the
// parser behind it is reached. What is accepted must encode to a snapshot that is accepted again.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "state/snapshot_file.h"
#include "test/fuzz/sealed.h"

namespace {

using namespace heddle;         // NOLINT
using namespace heddle::state;  // NOLINT

constexpr int64_t kMaxBytes = int64_t{1} << 20;

StateLayout small_layout() {
  return *StateLayout::make(
      {{{.name = "k", .dtype = DType::bf16, .strips = 2, .strip = 2}},
       {{.name = "conv", .growth = Growth::window, .strip = 2, .page_records = 4, .window = 3},
        {.name = "delta", .growth = Growth::folded, .strip = 3, .summary_elements = 4}}});
}

void try_decode(const std::vector<std::byte>& bytes) {
  const StateLayout layout = small_layout();
  const SnapshotIdentity identity{.model = "m", .weights = {1, 2}, .mixers = {"a", "d"}};
  BlockPool pool;
  const auto loaded = decode_snapshot(bytes, "input", layout, identity, pool, kMaxBytes);
  if (!loaded) return;
  const auto again = encode_snapshot(layout, identity, loaded->tokens, loaded->snapshot);
  if (!decode_snapshot(again, "again", layout, identity, pool, kMaxBytes)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  heddle::test::as_is_and_sealed(data, size, try_decode);
  return 0;
}
