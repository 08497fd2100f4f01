#pragma once
// The scratch memory of one task of the fast kernels, all rows padded to whole lanes.
#include <cstdint>

#include "ops/linear_attention/shape.h"

namespace heddle::ops::linear_attention {

struct Scratch {
  float* a;        // rows of the product: k rows of the block's tokens (if corrected), then q rows
  float* keys;     // [F, Kp]; none if they are the k rows of the product as they are
  float* v;        // [F, Vp]
  float* o;        // [F, Vp]
  float* weight;   // [F, Kp]: fold weights e_Fj k_j
  float* kk;       // [F, F]
  float* qk;       // [F, F]
  float* solve;    // [F, F]: coefficients of u in u
  float* read;     // [F, F]: coefficients of u in o
  float* u;        // [F, 16]
  float* product;  // [4 panels, 2 F, 16]
  float* last;     // e_F: one, or [Kp] (Decay::channel)
  // Decay::channel
  float* g;      // [F, Kp]: log decays of the block's tokens
  float* decay;  // [F, Kp]: e^g of every slot
  float* sums;   // [2 F, 16]: dots of one token, by lane

  static int64_t floats(const FoldShape& shape) { return Scratch(shape, nullptr).used_; }

  // p: floats(shape) of them; nullptr: nothing is used.
  Scratch(const FoldShape& s, float* p) : begin_(p) {
    const int64_t f = s.fold;
    const bool channels = s.decay == Decay::channel;
    a = take(2 * f * s.key_pad());
    keys = take(!s.corrects || channels ? f * s.key_pad() : 0);
    v = take(f * s.value_pad());
    o = take(f * s.value_pad());
    weight = take(f * s.key_pad());
    kk = take(f * f);
    qk = take(f * f);
    solve = take(f * f);
    read = take(f * f);
    u = take(f * kLanes);
    product = take(8 * f * kLanes);
    last = take(channels ? s.key_pad() : kLanes);
    g = take(channels ? f * s.key_pad() : 0);
    decay = take(channels ? f * s.key_pad() : 0);
    sums = take(channels ? 2 * f * kLanes : 0);
  }

 private:
  float* take(int64_t count) {
    float* result = begin_ == nullptr ? nullptr : begin_ + used_;
    used_ += count;
    return result;
  }
  float* begin_;
  int64_t used_ = 0;
};

}  // namespace heddle::ops::linear_attention
