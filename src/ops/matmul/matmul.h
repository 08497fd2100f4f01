#pragma once
// Matrix products with stored weights: y = x W^T. One order of accumulation per output, so a row's
// bits depend neither on the other rows of the batch nor on the number of threads.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/context.h"
#include "base/dtype.h"
#include "base/result.h"
#include "tensor/rows.h"

namespace heddle::backend {
class WeightMemory;
}

namespace heddle::ops {

// A weight matrix as a file stores it: `rows` rows of `cols` values, each row contiguous.
struct MatrixSource {
  const std::byte* data = nullptr;  // borrowed; must live until pack() returns
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<int32_t> row_order;  // optional: row r of the matrix is row row_order[r] of the file
  bool mapped = false;  // data lies in a mapped file: pages are given back as soon as they are read
};

struct PackOptions {
  // true: weights are kept as float32 values and multiplied in float32 (`--dtype f32`).
  // false: quantised formats multiply in int8 with the activations quantised per row in blocks
  // of 32.
  bool full_precision = false;
  // Requantise f32/f16/bf16 sources whose cols are a multiple of 32 on load (q8_0 or q4_0).
  DType quantize = DType::f32;              // f32: leave as stored
  backend::WeightMemory* memory = nullptr;  // where weights lie, longer than they; expected
};

// Weights in the layout of the kernels, owned. Several sources of equal cols are stacked by rows (a
// fused projection); they may have different formats.
class PackedMatrix {
 public:
  PackedMatrix();
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  int64_t rows() const;
  int64_t cols() const;
  int64_t bytes() const;  // memory held
  // Row `row` as the float values it stands for. out [cols]
  void dequantize_row(int64_t row, float* out) const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  friend Result<PackedMatrix> pack(ThreadPool&, std::span<const MatrixSource>, const PackOptions&);
  std::unique_ptr<Impl> impl_;
};

Result<PackedMatrix> pack(ThreadPool& pool, std::span<const MatrixSource> sources,
                          const PackOptions& options);

// One row of a file's matrix as floats. out [elements]
void dequantize(DType dtype, const std::byte* data, int64_t elements, float* out);
// The inverse for q8_0 and q4_0 (and f16, bf16, f32): round to nearest, scale from the largest
// magnitude.
void quantize(DType dtype, const float* values, int64_t elements, std::byte* out);

// y [T, N] (row stride y_stride >= N) = x [T, K] (row stride x_stride) W^T, W [N, K]
struct MatmulArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t tokens = 0;
  const PackedMatrix* weights = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  bool accumulate = false;  // y += instead of y =
};
namespace ref {
void matmul(backend::Context& ctx, const MatmulArgs& args);
}
namespace cpu {
void matmul(backend::Context& ctx, const MatmulArgs& args);
}
// y [T, N] = x [T, K] W^T; dispatches on ctx.kernels.
void matmul(backend::Context& ctx, tensor::ConstRows x, const PackedMatrix& weights,
            tensor::Rows y);

}  // namespace heddle::ops
