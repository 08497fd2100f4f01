#pragma once
// Rows taken from elsewhere, and what is added to each of them. One rounding a value, so the
// specification and the fast kernels agree to the bit.
#include <cstdint>
#include <span>

#include "backend/context.h"
#include "ops/matmul/matmul.h"
#include "tensor/rows.h"
#include "tensor/vector.h"

namespace heddle::ops {

// Row t of y [T, D] is row tokens[t] of the table [V, D] times `scale`.
struct EmbedArgs {
  const PackedMatrix* table = nullptr;
  std::span<const int32_t> tokens;  // [T], 0 <= id < V
  float scale = 1;
  tensor::Rows y;
};

namespace ref {
void embed(backend::Context& ctx, const EmbedArgs& args);
void gather(backend::Context& ctx, tensor::ConstRows x, std::span<const int32_t> rows,
            tensor::Rows y);
void add_bias(backend::Context& ctx, const tensor::Vector& bias, tensor::Rows y);
}  // namespace ref
namespace cpu {
void embed(backend::Context& ctx, const EmbedArgs& args);
void gather(backend::Context& ctx, tensor::ConstRows x, std::span<const int32_t> rows,
            tensor::Rows y);
void add_bias(backend::Context& ctx, const tensor::Vector& bias, tensor::Rows y);
}  // namespace cpu

// Dispatch on ctx.kernels.
void embed(backend::Context& ctx, const EmbedArgs& args);
// Row i of y [R, D] is row rows[i] of x [T, D]; any type. x and y lie apart.
void gather(backend::Context& ctx, tensor::ConstRows x, std::span<const int32_t> rows,
            tensor::Rows y);
// Every row of y [T, N] += bias [N]; nothing is added if the bias is empty.
void add_bias(backend::Context& ctx, const tensor::Vector& bias, tensor::Rows y);

}  // namespace heddle::ops
