#include "ops/work.h"

#include <algorithm>

#include "ops/matmul/matmul_layout.h"

namespace heddle::ops {

backend::Work product_work(const PackedMatrix& weights, int64_t tokens) {
  backend::Work work;
  work.bytes = static_cast<double>(weights.bytes());
  for (const Section& section : weights.impl().sections) {
    const double ops = 2.0 * static_cast<double>(section.rows) *
                       static_cast<double>(weights.cols()) * static_cast<double>(tokens);
    (dtype_info(section.dtype).quantized ? work.int8_ops : work.fp32_flops) += ops;
  }
  return work;
}

backend::Work attention_work(const AttentionArgs& args) {
  const KvShape& shape = args.kv.shape;
  const state::BatchView& batch = *args.kv.batch;
  const auto seen = [&](int64_t position) {
    return args.window > 0 ? std::min(position + 1, args.window) : position + 1;
  };
  backend::Work work;
  double pairs = 0;
  for (const state::Segment& segment : batch.segments) {
    if (segment.length == 0) continue;
    for (int64_t i = 0; i < segment.length; ++i)
      pairs += static_cast<double>(seen(batch.positions[static_cast<size_t>(segment.row + i)]));
    work.bytes += static_cast<double>(shape.held_bytes(seen(segment.start) + segment.length - 1));
  }
  const int64_t width = shape.key_width + shape.value_width;
  work.fp32_flops = 2 * pairs * static_cast<double>(args.heads * width);
  return work;
}

void project(backend::Context& ctx, const char* name, tensor::ConstRows x,
             const PackedMatrix& weights, tensor::Rows y) {
  const backend::ProfileScope part(ctx, name, [&] { return product_work(weights, x.rows); });
  matmul(ctx, x, weights, y);
}

Limit limit_of(const backend::Work& work, const backend::MachineLimits& machine) {
  const double read = work.bytes / machine.read_bytes_per_s;
  const double int8 = work.int8_ops / machine.int8_ops;
  const double fp32 = work.fp32_flops / machine.fp32_flops;
  if (read <= 0 && int8 + fp32 <= 0) return {};
  if (read > int8 + fp32) return {read, "read bandwidth"};
  return {int8 + fp32, int8 >= fp32 ? "int8 peak" : "fp32 peak"};
}

}  // namespace heddle::ops
