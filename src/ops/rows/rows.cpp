#include "ops/rows/rows.h"

#include "base/check.h"

namespace heddle::ops {

void embed(backend::Context& ctx, const EmbedArgs& args) {
  HEDDLE_CHECK(args.y.rows == std::ssize(args.tokens) && args.y.width == args.table->cols(),
               "{} tokens of width {} into {} rows of width {}", args.tokens.size(),
               args.table->cols(), args.y.rows, args.y.width);
  ctx.reference() ? ref::embed(ctx, args) : cpu::embed(ctx, args);
}

void gather(backend::Context& ctx, tensor::ConstRows x, std::span<const int32_t> rows,
            tensor::Rows y) {
  HEDDLE_CHECK(y.rows == std::ssize(rows) && y.width == x.width && y.dtype == x.dtype,
               "{} rows of width {} into {} of width {}", rows.size(), x.width, y.rows, y.width);
  ctx.reference() ? ref::gather(ctx, x, rows, y) : cpu::gather(ctx, x, rows, y);
}

void add_bias(backend::Context& ctx, const tensor::Vector& bias, tensor::Rows y) {
  if (bias.empty()) return;
  HEDDLE_CHECK(bias.size() == y.width, "a bias of {} for rows of width {}", bias.size(), y.width);
  ctx.reference() ? ref::add_bias(ctx, bias, y) : cpu::add_bias(ctx, bias, y);
}

}  // namespace heddle::ops
