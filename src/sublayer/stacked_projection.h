#pragma once
// The input projections of a mixer, stacked into one product.
#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/context.h"
#include "base/result.h"
#include "ops/matmul/matmul.h"
#include "sublayer/sublayer.h"

namespace heddle::sublayer {

class StackedProjection {
 public:
  // The matrices `names`, in this order. The last `gates` of them steer what a state forgets and
  // have few rows: when weights are requantised they are packed apart and stay as they are stored.
  static Result<StackedProjection> bind(ThreadPool& pool, WeightSource& source,
                                        const std::vector<std::string_view>& names, int64_t gates,
                                        const ops::PackOptions& options);

  // y [tokens, width()], x [tokens, K]; name: a literal for the profile.
  void project(backend::Context& ctx, const char* name, tensor::ConstRows x, tensor::Rows y) const;
  int64_t width() const { return rest_.rows() + gates_.rows(); }
  int64_t bytes() const { return rest_.bytes() + (gates_.rows() == 0 ? 0 : gates_.bytes()); }

 private:
  ops::PackedMatrix rest_, gates_;  // gates_: no rows where all are one matrix
};

}  // namespace heddle::sublayer
