#pragma once
// In which types a model's state is kept.
#include "base/dtype.h"

namespace heddle::sublayer {

struct StatePrecision {
  DType records = DType::bf16;  // of keys and values: bf16 or f32; other records are float32
  DType summary = DType::f32;
  bool error_feedback = false;  // what rounding a summary loses is kept beside it
};

}  // namespace heddle::sublayer
