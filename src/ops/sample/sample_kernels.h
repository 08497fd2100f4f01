#pragma once
// The vector loops of ops::cpu::sample, and what they work on.
#include <cstdint>
#include <limits>

namespace heddle::ops {

constexpr int64_t kSampleBlock = 512;  // logits; a multiple of 16

// One row, read for one temperature.
struct Scan {
  int64_t row = 0;
  const float* logits = nullptr;  // [vocab]
  int64_t vocab = 0;
  float inverse_temperature = 1;
  bool sums = false;         // the weights of whole blocks are wanted
  float* highest = nullptr;  // [blocks, rounded up to 16]; +inf: a NaN or +inf is among them
  float* mass = nullptr;     // as many; the sum of weights, first against the block's own highest

  int64_t blocks() const { return (vocab + kSampleBlock - 1) / kSampleBlock; }
};

// Tokens that may survive the cuts, in the order of their numbers. At least 16 entries behind the
// last one have the logit -inf, and memory.
struct Candidates {
  float* logit = nullptr;
  int32_t* token = nullptr;
  float* weight = nullptr;  // e^((logit - the row's highest) / temperature)
  int64_t count = 0;

  int64_t blocks() const { return (count + kSampleBlock - 1) / kSampleBlock; }
};

namespace cpu {
// Writes `highest`, and with `sums` also `mass`, of blocks [begin, end).
void scan_blocks(const Scan& scan, int64_t begin, int64_t end);
// Brings the sums of all blocks from their own highest logit to that of the row.
void scale_blocks(const Scan& scan, float highest);
// The weights in a block against its own highest logit, which is finite: [count rounded up to 16].
void weigh_block(const Scan& scan, int64_t block, float* weight);
// The tokens with logits from `least` (finite) up, without weights.
void gather(const Scan& scan, float least, Candidates& out);
// Drops the candidates with logits below `least` (finite).
void filter(Candidates& candidates, float least);
void weigh(Candidates& candidates, float highest, float inverse_temperature);
// Of the candidates with logits from `least` (above -inf) up: how many, and their weight.
int64_t count_from(const Candidates& candidates, float least);
double mass_from(const Candidates& candidates, float least);
// The weights of blocks of candidates: [blocks].
void sum_blocks(const Candidates& candidates, float* out);
}  // namespace cpu

}  // namespace heddle::ops
