#include "state/state_part.h"

namespace heddle::state {

namespace {

// Far above any model, far below what could overflow a product of two.
constexpr int64_t kMaxElements = int64_t{1} << 30;

}  // namespace

Status validate(const StatePart& part) {
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

}  // namespace heddle::state
