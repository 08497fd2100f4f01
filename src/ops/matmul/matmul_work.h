#pragma once
// One call of matmul as every thread sees it, and the parts that it is put together from; each part
// is compiled for every target in a file of its own and runs the kernels of the active one.
#include <cstdint>

#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_layout.h"

namespace heddle::ops {

struct MatmulWork {
  const MatmulArgs* args;
  const PackedMatrix::Impl* weights;
  Activations activations;  // when some section is in blocks
};

// Tiles [begin, end) of a section of floats or of blocks, all tokens.
void multiply_floats(const MatmulWork& work, const Section& section, int64_t begin, int64_t end);
void multiply_blocks(const MatmulWork& work, const Section& section, int64_t begin, int64_t end);

// Tokens side by side in the activations of a call (Activations::width).
int64_t activation_width(int64_t tokens);
// x to int8: token groups [begin, end) of the activations.
void quantize_activations(const MatmulWork& work, int64_t begin, int64_t end);

}  // namespace heddle::ops
