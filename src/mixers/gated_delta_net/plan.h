#pragma once
// How the fast kernels share a step out, and the scratch memory of a task; internal to cpu.cpp.
#include <cstdint>

#include "mixers/gated_delta_net/kernels.h"

namespace heddle::mixers::gated_delta_net {

// How a step is shared out. Task = (key head, split, segment), segments innermost, so that the
// threads' contiguous ranges get alike loads from ragged batches.
struct Plan {
  const MixArgs* args = nullptr;
  ops::CausalConvArgs conv;
  int64_t splits = 1;  // of a key head's panels; more than 1 only where no segment folds
  float* o = nullptr;  // splits > 1: [T, HV, Vp], normed and gated after all tasks
};

// Scratch of one task, all rows padded to whole lanes.
struct Scratch {
  float* a;        // [2 F, Kp]: k rows of the block's tokens, then its q rows
  float* v;        // [F, Vp]
  float* o;        // [F, Vp]
  float* weight;   // [F, Kp]: fold weights e^{G_F - G_j} k_j
  float* kk;       // [F, F]
  float* qk;       // [F, F]
  float* solve;    // [F, F]: coefficients of u in u
  float* read;     // [F, F]: coefficients of u in o
  float* u;        // [F, 16]
  float* product;  // [4 panels, 2 F, 16]

  static int64_t floats(const Sizes& s) {
    return kFold * (3 * s.key_pad() + 2 * s.value_pad() + 4 * kFold + kLanes + 8 * kLanes);
  }
  Scratch(const Sizes& s, float* p) {
    const auto take = [&p](int64_t count) {
      float* result = p;
      p += count;
      return result;
    };
    a = take(2 * kFold * s.key_pad());
    v = take(kFold * s.value_pad());
    o = take(kFold * s.value_pad());
    weight = take(kFold * s.key_pad());
    kk = take(kFold * kFold);
    qk = take(kFold * kFold);
    solve = take(kFold * kFold);
    read = take(kFold * kFold);
    u = take(kFold * kLanes);
    product = take(8 * kFold * kLanes);
  }
};

}  // namespace heddle::mixers::gated_delta_net
