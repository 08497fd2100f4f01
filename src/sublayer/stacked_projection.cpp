#include "sublayer/stacked_projection.h"

#include <span>
#include <utility>

#include "ops/work.h"

namespace heddle::sublayer {

Result<StackedProjection> StackedProjection::bind(ThreadPool& pool, WeightSource& source,
                                                  const std::vector<std::string_view>& names,
                                                  int64_t gates, const ops::PackOptions& options) {
  std::vector<ops::MatrixSource> matrices;
  for (const std::string_view name : names) {
    HEDDLE_TRY(ops::MatrixSource matrix, source.matrix(name));
    matrices.push_back(std::move(matrix));
  }
  const bool apart = options.quantize != DType::f32;
  const std::span<const ops::MatrixSource> all(matrices);
  StackedProjection result;
  HEDDLE_TRY(
      result.rest_,
      ops::pack(pool, apart ? all.first(all.size() - static_cast<size_t>(gates)) : all, options));
  if (apart) {
    ops::PackOptions exact = options;
    exact.quantize = DType::f32;
    HEDDLE_TRY(result.gates_, ops::pack(pool, all.last(static_cast<size_t>(gates)), exact));
  }
  return result;
}

void StackedProjection::project(backend::Context& ctx, const char* name, tensor::ConstRows x,
                                tensor::Rows y) const {
  ops::project(ctx, name, x, rest_, y.columns(0, rest_.rows()));
  if (gates_.rows() > 0) ops::project(ctx, name, x, gates_, y.columns(rest_.rows(), gates_.rows()));
}

}  // namespace heddle::sublayer
