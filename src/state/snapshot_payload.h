#pragma once
// The records of a snapshot as a run of bytes, optionally one zstd frame: which ones are saved, in
// which order, and how they come back. What is saved follows from layout and position alone.
#include <zstd.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "state/sequence_state.h"

namespace heddle::state {

// Bytes of the records saved at a position and of the blocks that hold them. Doubles: sizes that
// come from a file must not overflow on the way to a bound.
struct SnapshotSizes {
  double payload = 0;
  double blocks = 0;
};
SnapshotSizes snapshot_sizes(const StateLayout& layout, int64_t position);

// Complete pages of a snapshot that was read take their shorter form, as those of a sequence do.
void pack_complete_pages(const StateLayout& layout, BlockPool& pool, Snapshot& snapshot);

class PayloadWriter {
 public:
  // Appends to `out`. level: 0 for none, else of zstd.
  PayloadWriter(std::vector<std::byte>& out, int level);
  void write_part(const StateLayout& layout, int64_t part, const Snapshot& from);
  void finish();

 private:
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  };
  void write(const std::byte* data, int64_t size);
  void compress(const std::byte* data, size_t size, ZSTD_EndDirective mode);
  std::vector<std::byte>& out_;
  std::unique_ptr<ZSTD_CCtx, Free> context_;
  std::vector<std::byte> buffer_;
  std::vector<std::byte> unpacked_;  // the page that is written, if it is kept packed
};

class PayloadReader {
 public:
  PayloadReader(std::span<const std::byte> stored, bool compressed);
  // Part by part, into a snapshot that knows its position; blocks are taken where a part is the
  // first of its group. False when the payload ends early or is damaged.
  bool read_part(const StateLayout& layout, int64_t part, BlockPool& pool, Snapshot& to);
  // Whether all of it has been used, and nothing follows.
  bool at_end();

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  bool read(std::byte* data, int64_t size);
  ZSTD_inBuffer input_;
  size_t last_ = 1;  // what zstd said last: 0 at the end of the frame
  std::unique_ptr<ZSTD_DCtx, Free> context_;
};

}  // namespace heddle::state
