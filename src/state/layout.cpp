#include "state/layout.h"

#include <algorithm>
#include <utility>

#include "base/round_up.h"

namespace heddle::state {

namespace {

constexpr int64_t kAlignment = 64;               // of a part in a block
constexpr int64_t kMaxParts = 64;                // of one layer
constexpr int64_t kMaxBlock = int64_t{1} << 40;  // bytes: far from overflow

Status check_layer(const std::vector<StatePart>& parts, size_t layer) {
  if (static_cast<int64_t>(parts.size()) > kMaxParts) {
    return fail("state layout: layer {} has {} parts; expected at most {}", layer, parts.size(),
                kMaxParts);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (parts[j].name == parts[i].name) {
        return fail("state layout: layer {} has two parts named '{}'", layer, parts[i].name);
      }
    }
    if (const Status status = validate(parts[i]); !status) {
      return fail("state layout: layer {}, part '{}': {}", layer, parts[i].name,
                  status.error().message);
    }
  }
  return {};
}

bool belongs_to(const StatePart& part, const PageGroup& group) {
  return part.growth == group.growth && part.page_records == group.page_records &&
         part.window == group.window && part.sinks == group.sinks;
}

// Enters the last part of the layout in its group.
Status place_last(StateLayout& layout) {
  const StatePart& part = layout.entries.back().part;
  auto group = std::ranges::find_if(
      layout.groups, [&](const PageGroup& known) { return belongs_to(part, known); });
  if (group == layout.groups.end()) {
    layout.groups.push_back({.growth = part.growth,
                             .page_records = part.page_records,
                             .window = part.window,
                             .sinks = part.sinks});
    group = layout.groups.end() - 1;
  }
  layout.places.push_back({.group = group - layout.groups.begin(),
                           .index = static_cast<int64_t>(group->parts.size()),
                           .offset = group->page_bytes,
                           .summary_offset = group->summary_bytes});
  group->parts.push_back(layout.parts() - 1);
  group->page_bytes += round_up(part.page_bytes(), kAlignment);
  group->summary_bytes += round_up(part.summary_bytes(), kAlignment);
  group->packs |= part.codec != nullptr;
  if (std::max(group->page_bytes, group->summary_bytes) > kMaxBlock) {
    return fail("state layout: up to layer {} a block has more than {} bytes",
                layout.entries.back().layer, kMaxBlock);
  }
  return {};
}

}  // namespace

Result<StateLayout> StateLayout::make(std::vector<std::vector<StatePart>> layers) {
  StateLayout layout;
  layout.first_part.push_back(0);
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    HEDDLE_TRY_STATUS(check_layer(layers[layer], layer));
    for (StatePart& part : layers[layer]) {
      layout.entries.push_back({static_cast<int64_t>(layer), std::move(part)});
      HEDDLE_TRY_STATUS(place_last(layout));
    }
    layout.first_part.push_back(layout.parts());
  }
  return layout;
}

int64_t StateLayout::fold_length() const {
  int64_t longest = 1;
  for (const PageGroup& group : groups) {
    if (group.growth == Growth::folded) longest = std::max(longest, group.page_records);
  }
  return longest;
}

int64_t StateLayout::smallest_fold() const {
  int64_t smallest = 0;
  for (const PageGroup& group : groups) {
    if (group.growth != Growth::folded) continue;
    smallest = smallest == 0 ? group.page_records : std::min(smallest, group.page_records);
  }
  return smallest;
}

}  // namespace heddle::state
