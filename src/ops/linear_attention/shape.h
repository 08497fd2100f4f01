#pragma once
// Sizes and layouts of what a recurrent mixer keeps: a state S [K, V] for every value head, folded
// every F tokens, and the records since.
#include <cstdint>
#include <string>
#include <string_view>

#include "backend/profile.h"
#include "base/result.h"
#include "state/batch.h"
#include "state/state_part.h"

namespace heddle::ops::linear_attention {

// Heads are padded to whole groups of lanes in records and summaries; the padding is zero.
constexpr int64_t kLanes = 16;

constexpr int64_t pad_lanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// What S is multiplied by before a token is added.
enum class Decay : uint8_t {
  constant,  // e^g with a g of the value head, the same for all tokens: nothing is recorded (g = 0:
             // S is kept)
  head,      // e^g, one g per token and value head
  channel,   // diag(e^g), a g [K] per token and key head
};

struct FoldShape {
  int64_t key_heads = 0;    // HK
  int64_t value_heads = 0;  // HV = R HK
  int64_t key_dim = 0;      // K
  int64_t value_dim = 0;    // V
  // F, a divisor of 64: tokens between two summaries.
  int64_t fold = 32;
  Decay decay = Decay::head;
  // The delta rule: u = beta (v - S^T k) is added, not beta v.
  bool corrects = false;
  // Value head h reads key head h mod HK, not h div R.
  bool tiled = false;

  int64_t repeat() const { return value_heads / key_heads; }  // R
  // The r-th value head that reads key head h.
  int64_t value_head(int64_t h, int64_t r) const {
    return tiled ? r * key_heads + h : h * repeat() + r;
  }
  int64_t key_head(int64_t value_head) const {
    return tiled ? value_head % key_heads : value_head / repeat();
  }
  // The inverse: which of its key head's value heads.
  int64_t rank(int64_t value_head) const {
    return tiled ? value_head / key_heads : value_head % repeat();
  }
  int64_t value_width() const { return value_heads * value_dim; }

  // A record is one strip per key head: [k Kp | u R Vp | g, padded], p = pad_lanes; g as many as
  // the decay asks for. So the records of a head since the boundary are one contiguous stream of
  // their page.
  int64_t key_pad() const { return pad_lanes(key_dim); }
  int64_t value_pad() const { return pad_lanes(value_dim); }
  int64_t gates() const {
    return decay == Decay::constant ? 0 : decay == Decay::head ? repeat() : key_dim;
  }
  int64_t strip() const { return key_pad() + repeat() * value_pad() + pad_lanes(gates()); }
  int64_t record() const { return key_heads * strip(); }
  // In a page of records: the strip of a key head at a slot (k stands first); inside it, what its
  // r-th value head adds, and the gates.
  int64_t strip_at(int64_t key_head, int64_t slot) const {
    return (key_head * fold + slot) * strip();
  }
  int64_t strip_value(int64_t r) const { return key_pad() + r * value_pad(); }
  int64_t strip_gates() const { return key_pad() + repeat() * value_pad(); }

  // A summary: [HV][Vp / 16][K][16], so that 16 columns of a state (a panel) are one contiguous
  // stream.
  int64_t summary_head() const { return key_dim * value_pad(); }
  int64_t summary() const { return value_heads * summary_head(); }
  int64_t summary_index(int64_t value_head, int64_t k, int64_t v) const {
    return value_head * summary_head() + (v / kLanes * key_dim + k) * kLanes + v % kLanes;
  }

  // Sizes come from files: in range, and value heads a multiple of key heads. `owner` begins the
  // message.
  Status validate(std::string_view owner) const;

  // Of one token on average over a block (multiply and add count as two), projections aside.
  double token_flops() const;
  // Of a token that finds `records` records since the boundary: products with S, chains over the
  // records, and its share of the fold.
  double token_flops(double records) const;
  // What a token there reads and writes of the state; a fold is spread over its F tokens.
  double token_read_bytes(int64_t position) const;
  double token_write_bytes() const;
};

// The folded part of a shape.
state::StatePart fold_part(std::string name, const FoldShape& shape);
// Every segment reads its summary and the records since it; the arithmetic is that of a token on
// average over the block.
backend::Work fold_work(const FoldShape& shape, const state::BatchView& batch);

}  // namespace heddle::ops::linear_attention
