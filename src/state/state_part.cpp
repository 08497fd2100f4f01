#include "state/state_part.h"

#include <algorithm>

namespace heddle::state {

namespace {

// Far above any model, far below what could overflow a product of two.
constexpr int64_t kMaxElements = int64_t{1} << 30;
constexpr int64_t kMaxParts = 64;  // of one layer

Status validate_part(const StatePart& part) {
  const auto divides_page = [](int64_t n) { return n > 0 && kPageTokens % n == 0; };
  if (part.name.empty()) return fail("a part without a name");
  if (part.strips < 1 || part.strip < 1 || part.strips > kMaxElements ||
      part.strip > kMaxElements || part.strips * part.strip > kMaxElements) {
    return fail("record of {} strips of {} elements; expected both at least 1, product at most {}",
                part.strips, part.strip, kMaxElements);
  }
  if (part.strip % dtype_info(part.dtype).block_elements != 0) {
    return fail("strip of {} elements is not a whole number of {} blocks", part.strip,
                dtype_info(part.dtype).name);
  }
  if (!divides_page(part.page_records)) {
    return fail("page of {} records; expected a divisor of {}", part.page_records, kPageTokens);
  }
  const bool windowed = part.growth == Growth::window;
  if (!windowed && (part.window != 0 || part.sinks != 0)) {
    return fail("window {} and sinks {} on a part that is no window", part.window, part.sinks);
  }
  if (part.growth != Growth::folded && part.summary_elements != 0) {
    return fail("summary of {} elements on a part that does not fold", part.summary_elements);
  }
  if (part.codec != nullptr && !part.stores_whole_chunk()) {
    return fail("a codec on pages of {} records; expected pages of {} that keep a whole chunk",
                part.page_records, kPageTokens);
  }
  switch (part.growth) {
    case Growth::per_token:
      if (part.page_records != kPageTokens) {
        return fail("per-token page of {} records; expected {}", part.page_records, kPageTokens);
      }
      break;
    case Growth::window:
      if (part.window < 1 || part.sinks < 0 || part.window > kMaxElements ||
          part.sinks > kMaxElements) {
        return fail("window {} with {} sinks; expected a window of at least 1, sinks not negative",
                    part.window, part.sinks);
      }
      if (part.page_records < kPageTokens && part.page_records < part.window) {
        return fail("window {} on pages of {} records; expected {} or at least the window",
                    part.window, part.page_records, kPageTokens);
      }
      break;
    case Growth::folded:
      if (part.summary_elements < 1 || part.summary_elements > kMaxElements) {
        return fail("summary of {} elements; expected 1 to {}", part.summary_elements,
                    kMaxElements);
      }
      break;
  }
  return {};
}

}  // namespace

int64_t StateLayout::fold_length() const {
  int64_t longest = 1;
  for (const Entry& entry : entries) {
    if (entry.part.growth == Growth::folded) longest = std::max(longest, entry.part.page_records);
  }
  return longest;
}

int64_t StateLayout::smallest_fold() const {
  int64_t smallest = 0;
  for (const Entry& entry : entries) {
    if (entry.part.growth != Growth::folded) continue;
    smallest =
        smallest == 0 ? entry.part.page_records : std::min(smallest, entry.part.page_records);
  }
  return smallest;
}

Status StateLayout::validate() const {
  if (first_part.empty() || first_part.front() != 0 || first_part.back() != parts()) {
    return fail("state layout: first_part does not span its {} parts", parts());
  }
  for (size_t layer = 0; layer + 1 < first_part.size(); ++layer) {
    if (first_part[layer] > first_part[layer + 1]) {
      return fail("state layout: parts of layer {} end before they start", layer);
    }
    if (first_part[layer + 1] - first_part[layer] > kMaxParts) {
      return fail("state layout: layer {} has {} parts; expected at most {}", layer,
                  first_part[layer + 1] - first_part[layer], kMaxParts);
    }
    for (int64_t i = first_part[layer]; i < first_part[layer + 1]; ++i) {
      const Entry& entry = entries[static_cast<size_t>(i)];
      if (entry.layer != static_cast<int64_t>(layer)) {
        return fail("state layout: part {} says layer {}; expected {}", i, entry.layer, layer);
      }
      for (int64_t j = first_part[layer]; j < i; ++j) {
        if (entries[static_cast<size_t>(j)].part.name == entry.part.name) {
          return fail("state layout: layer {} has two parts named '{}'", layer, entry.part.name);
        }
      }
      if (const Status status = validate_part(entry.part); !status) {
        return fail("state layout: layer {}, part '{}': {}", layer, entry.part.name,
                    status.error().message);
      }
    }
  }
  return {};
}

}  // namespace heddle::state
