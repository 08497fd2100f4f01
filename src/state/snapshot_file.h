#pragma once
// A snapshot as one self-describing run of bytes, on disk or on the wire.
//
//   "HDLSNAP1"        8 bytes
//   u32 version, u32 flags (bit 0: the payload is one zstd frame)
//   u64 header bytes, u64 payload bytes as stored
//   header            model, weight hash, mixers, token ids, every part with its shape and type
//   payload           part by part: valid records only, strip by strip; then summary, open records
//   XXH3-128          of everything before it
//
// Little endian. What a layout and a position imply is never read from the file but compared with
// it: any difference is refused, with a message that says what, where, and what was expected.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "state/sequence_state.h"

namespace heddle::state {

// What the records mean nothing without.
struct SnapshotIdentity {
  std::string model;                // architecture
  Hash128 weights;                  // of the weight file, as whoever loaded it computes it
  std::vector<std::string> mixers;  // kind of every layer
  friend bool operator==(const SnapshotIdentity&, const SnapshotIdentity&) = default;
};

struct SnapshotHeader {
  SnapshotIdentity identity;
  std::vector<int32_t> tokens;  // as many as the position
  StateLayout layout;
  bool compressed = false;
  int64_t header_bytes = 0;
  int64_t payload_bytes = 0;  // as stored
};

struct SavedSnapshot {
  std::vector<int32_t> tokens;
  Snapshot snapshot;
};

// compression: 0 for none, else a zstd level (1 to 19).
std::vector<std::byte> encode_snapshot(const StateLayout& layout, const SnapshotIdentity& identity,
                                       std::span<const int32_t> tokens, const Snapshot& snapshot,
                                       int compression = 0);
// Written beside `path`, flushed, and renamed: a reader sees the old file or the whole new one.
Status save_snapshot(const std::string& path, const StateLayout& layout,
                     const SnapshotIdentity& identity, std::span<const int32_t> tokens,
                     const Snapshot& snapshot, int compression = 0);

// Checks lengths and checksum and reads the description; needs no model. `where` names the source
// in messages.
Result<SnapshotHeader> read_snapshot_header(std::span<const std::byte> bytes,
                                            std::string_view where);
// Refused unless it was saved by the same model with the same layout. `max_bytes`: bound on the
// memory of the blocks it takes from the pool.
Result<SavedSnapshot> decode_snapshot(std::span<const std::byte> bytes, std::string_view where,
                                      const StateLayout& layout, const SnapshotIdentity& identity,
                                      BlockPool& pool, int64_t max_bytes);
Result<SavedSnapshot> load_snapshot(const std::string& path, const StateLayout& layout,
                                    const SnapshotIdentity& identity, BlockPool& pool,
                                    int64_t max_bytes);

}  // namespace heddle::state
