#include "ops/linear_attention/linear_attention.h"

#include <algorithm>
#include <utility>

namespace heddle::ops::linear_attention {

Status FoldShape::validate(std::string_view owner) const {
  // Heads are 64 to 256 wide; the bound keeps products of sizes far from overflow.
  constexpr int64_t kMost = 4096;
  const std::pair<const char*, int64_t> fields[] = {{"key_heads", key_heads},
                                                    {"value_heads", value_heads},
                                                    {"key_dim", key_dim},
                                                    {"value_dim", value_dim}};
  for (const auto& [name, value] : fields)
    if (value < 1 || value > kMost)
      return fail("{}: {} is {}, expected at least 1 and at most {}", owner, name, value, kMost);
  if (value_heads % key_heads != 0)
    return fail("{}: {} value heads, expected a multiple of the {} key heads", owner, value_heads,
                key_heads);
  return {};
}

double FoldShape::token_flops(double records) const {
  const auto k = static_cast<double>(key_dim), v = static_cast<double>(value_dim);
  const auto keys = static_cast<double>(key_heads), values = static_cast<double>(value_heads);
  const double reads = corrects ? 2 : 1;  // k and q against S and against the records, or q alone
  return values * ((2 * reads + 2) * k * v + 2 * reads * records * v) +
         keys * 2 * reads * records * k;
}

double FoldShape::token_flops() const { return token_flops(static_cast<double>(fold) / 2); }

double FoldShape::token_read_bytes(int64_t position) const {
  return 4.0 * static_cast<double>(summary()) * (1 + 1 / static_cast<double>(fold)) +
         4.0 * static_cast<double>(record() * (position % fold + 1));
}

double FoldShape::token_write_bytes() const {
  return 4.0 * static_cast<double>(summary()) / static_cast<double>(fold) +
         4.0 * static_cast<double>(record());
}

state::StatePart fold_part(std::string name, const FoldShape& shape) {
  state::StatePart part;
  part.name = std::move(name);
  part.growth = state::Growth::folded;
  part.strips = shape.key_heads;
  part.strip = shape.strip();
  part.page_records = shape.fold;
  part.summary_elements = shape.summary();
  return part;
}

backend::Work fold_work(const FoldShape& shape, const state::BatchView& batch) {
  backend::Work work;
  work.fp32_flops = static_cast<double>(batch.tokens) * shape.token_flops();
  for (const state::Segment& segment : batch.segments)
    work.bytes +=
        4 * static_cast<double>(shape.summary() + shape.record() * (segment.start % shape.fold));
  return work;
}

bool crosses_blocks(const FoldArgs& args) {
  for (const state::Segment& segment : args.batch->segments)
    if (segment.start % args.shape->fold + segment.length > args.shape->fold) return true;
  return false;
}

// Every split of a head makes the head's keys for itself, so a long chunk is cut into no more tasks
// than there are threads; a decode step gets two each, to even out what they meet in memory.
int64_t choose_splits(const FoldArgs& args, int64_t threads) {
  const FoldShape& shape = *args.shape;
  const auto segments = static_cast<int64_t>(args.batch->segments.size());
  const int64_t panels = shape.repeat() * shape.value_pad() / kLanes;
  const int64_t tasks = crosses_blocks(args) ? threads : 2 * threads;
  return std::clamp<int64_t>(tasks / (shape.key_heads * segments), 1, panels);
}

}  // namespace heddle::ops::linear_attention
