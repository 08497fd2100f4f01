#pragma once
// What attention_cpu.cpp hands to its kernels: a tile of query rows, and where its numbers live.
#include <cstdint>

#include "ops/attention/attention.h"

namespace heddle::ops::attention_tile {

// Tiles of at most so many rows of a head may run their splits as separate tasks, and read pages as
// they are.
constexpr int64_t kFewRows = 24;

// Rows of one segment whose heads of one group share every page they read.
struct Tile {
  int64_t segment = 0;
  int64_t row = 0;  // first row inside the segment
  int64_t tokens = 0;
  // A single draft whose ancestors do not lie in consecutive slots: its pages are gathered first.
  bool gather = false;
  // Products read pages as they are: few rows, and values fill the widest vectors. Others widen a
  // page first.
  bool direct = false;
  int64_t oldest = 0;  // key that the first row sees
  int64_t last = 0;    // that the last one does
  int64_t first_split = 0;
  int64_t splits = 0;
  float* partials = nullptr;  // [G, splits, rows, partial_width]: splits run as tasks of their own
};

// Sizes derived once per call.
struct Plan {
  const AttentionArgs* args = nullptr;
  int64_t group = 1;         // query heads of a kv head
  int64_t padded_width = 0;  // V rounded up to 16 floats; row stride of accumulators
  int64_t max_rows = 0;      // of a task
  int64_t max_heads = 1;     // of a task
  int64_t threads = 1;       // that take splits in turn
  int64_t partial_width() const { return padded_width + 16; }
};

// Memory of one thread; sizes in floats.
struct Scratch {
  float* q;               // [K][M] of each block of M rows
  float* scores;          // [rows][64]
  float* acc;             // [rows][padded_width] of the split
  float* total;           // [rows][padded_width] of the splits before
  float* sums;            // [rows][16] of probabilities of the split, by lanes
  float* stats;           // [3][rows]
  int32_t* first;         // [rows] first visible position
  int32_t* end;           // [rows] one past the last
  float* keys;            // one page as float panels
  float* values;          // one page as float panels
  std::byte* key_page;    // gathered or unpacked, [heads]
  std::byte* value_page;  // gathered or unpacked, [heads]
  int32_t* slots;         // of the ancestors of a gathered draft
};

}  // namespace heddle::ops::attention_tile
