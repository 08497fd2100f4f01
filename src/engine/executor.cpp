#include "engine/executor.h"

#include <algorithm>

namespace heddle::engine {
namespace {

// The token chosen at a row of the batch; -1: none was.
int32_t chosen_at(const state::StepBatch& step, int64_t row, std::span<const RowRequest> requests,
                  std::span<const RowOutput> outputs) {
  for (size_t i = 0; i < requests.size(); ++i)
    if (requests[i].given < 0 && step.rows()[static_cast<size_t>(requests[i].row)] == row)
      return outputs[i].sample ? outputs[i].sample->token : -1;
  return -1;
}

}  // namespace

std::vector<int32_t> accepted_path(const state::StepBatch& step, int64_t segment,
                                   std::span<const RowRequest> requests,
                                   std::span<const RowOutput> outputs) {
  const state::Segment& part = step.segment(segment);
  std::vector<int32_t> path;
  int64_t at = part.committed() - 1;  // the row that the path has reached
  for (int64_t row = part.committed(); row < part.length; ++row) {
    if (part.parent(row) != at) continue;
    const int32_t draft = step.tokens()[static_cast<size_t>(part.row + row)];
    if (draft != chosen_at(step, part.row + at, requests, outputs)) continue;
    path.push_back(static_cast<int32_t>(row - part.committed()));
    at = row;
  }
  return path;
}

}  // namespace heddle::engine
