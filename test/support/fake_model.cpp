#include "test/support/fake_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/hash.h"
#include "base/rng.h"

namespace heddle::state::fake {

namespace {

StatePart per_token(std::string name, DType dtype, int64_t strips, int64_t strip) {
  return {.name = std::move(name), .dtype = dtype, .strips = strips, .strip = strip};
}

StatePart window(std::string name, int64_t strips, int64_t strip, int64_t page_records,
                 int64_t window, int64_t sinks) {
  return {.name = std::move(name),
          .growth = Growth::window,
          .strips = strips,
          .strip = strip,
          .page_records = page_records,
          .window = window,
          .sinks = sinks};
}

StatePart folded(std::string name, int64_t strips, int64_t strip, int64_t fold, int64_t summary) {
  return {.name = std::move(name),
          .growth = Growth::folded,
          .strips = strips,
          .strip = strip,
          .page_records = fold,
          .summary_elements = summary};
}

// Records of its parts say everything twice, the second byte of two with every bit turned. Its form
// of a page has the second bytes alone, one further on; every other page (by its first byte) has
// none. Any byte that is read or copied past the codec is then a wrong one.
constexpr PageCodec kTurningCodec = {
    [](int64_t page_bytes) { return page_bytes / 2; },
    [](const std::byte* page, int64_t page_bytes, std::byte* packed) {
      if (std::to_integer<int>(page[0]) % 2 != 0) return false;
      const int64_t count = page_bytes / 2;
      for (int64_t i = 0; i < count; ++i) {
        if (page[2 * i + 1] != ~page[2 * i]) return false;
        packed[(i + 1) % count] = page[2 * i + 1];
      }
      return true;
    },
    [](const std::byte* packed, int64_t page_bytes, std::byte* page) {
      const int64_t count = page_bytes / 2;
      for (int64_t i = 0; i < count; ++i) {
        page[2 * i + 1] = packed[(i + 1) % count];
        page[2 * i] = ~page[2 * i + 1];
      }
    }};

StatePart with_codec(StatePart part) {
  part.codec = &kTurningCodec;
  return part;
}

StateLayout layout_of(std::vector<std::vector<StatePart>> layers) {
  auto layout = StateLayout::make(std::move(layers));
  HEDDLE_CHECK(layout.has_value(), "{}", layout.error().message);
  return std::move(*layout);
}

uint64_t path_hash(std::span<const int32_t> path, uint64_t seed) {
  return hash64(std::as_bytes(path), seed);
}

std::byte* record_strip(const StatePart& part, std::byte* page, int64_t slot, int64_t strip) {
  const int64_t bytes = dtype_bytes(part.dtype, part.strip);
  return page + (strip * part.page_records + slot % part.page_records) * bytes;
}

// A summary is the old one decayed plus the bytes of the records: small integers, exact in float.
void fold_records(std::vector<float>& summary, std::span<const std::byte> record) {
  for (size_t i = 0; i < summary.size(); ++i) {
    const auto old = static_cast<int64_t>(summary[i]);
    const auto byte = std::to_integer<int64_t>(record[i % record.size()]);
    summary[i] = static_cast<float>((old * 31 + byte + static_cast<int64_t>(i)) % 1000003);
  }
}

std::vector<std::byte> read_record(const StatePart& part, const std::byte* page, int64_t slot) {
  std::vector<std::byte> record;
  const int64_t bytes = dtype_bytes(part.dtype, part.strip);
  for (int64_t strip = 0; strip < part.strips; ++strip) {
    const std::byte* from = record_strip(part, const_cast<std::byte*>(page), slot, strip);
    record.insert(record.end(), from, from + bytes);
  }
  return record;
}

void write_record(const StatePart& part, std::byte* page, int64_t slot,
                  std::span<const std::byte> record) {
  const int64_t bytes = dtype_bytes(part.dtype, part.strip);
  for (int64_t strip = 0; strip < part.strips; ++strip) {
    std::memcpy(record_strip(part, page, slot, strip), record.data() + strip * bytes,
                static_cast<size_t>(bytes));
  }
}

std::string where(const StateLayout& layout, int64_t part, int64_t slot) {
  const auto& entry = layout.entries[static_cast<size_t>(part)];
  return fmt::format("layer {} part {} slot {}", entry.layer, entry.part.name, slot);
}

// Checks record `slot` of a page against the tokens [0, slot].
std::string check_record(const StateLayout& layout, int64_t index, const std::byte* page,
                         int64_t slot, std::span<const int32_t> tokens) {
  const StatePart& part = layout.part(index);
  if (page == nullptr) return where(layout, index, slot) + ": no page";
  const auto path = tokens.first(static_cast<size_t>(slot) + 1);
  if (read_record(part, page, slot) != expected_record(layout, index, path)) {
    return where(layout, index, slot) + ": wrong record";
  }
  return {};
}

std::string check_summary(const StateLayout& layout, int64_t index, const float* summary,
                          std::span<const int32_t> tokens) {
  const StatePart& part = layout.part(index);
  const auto count = static_cast<size_t>(part.summary_elements);
  const std::vector<float> expected = expected_summary(layout, index, tokens);
  const std::vector<float> found =
      summary == nullptr ? std::vector<float>(count) : std::vector<float>(summary, summary + count);
  if (summary == nullptr && !tokens.empty()) {
    return fmt::format("{}: no summary", where(layout, index, static_cast<int64_t>(tokens.size())));
  }
  if (found != expected) {
    return where(layout, index, static_cast<int64_t>(tokens.size())) + ": wrong summary";
  }
  return {};
}

bool visible(const StatePart& part, int64_t slot, int64_t next) {
  return part.growth == Growth::per_token || slot < part.sinks || slot >= next - part.window;
}

// Everything a token at position `tokens.size()` reads.
std::string check_part(const StateLayout& layout, int64_t index, const PartView& view,
                       std::span<const int32_t> tokens) {
  const StatePart& part = layout.part(index);
  const auto position = static_cast<int64_t>(tokens.size());
  std::vector<std::byte> unpacked;
  int64_t unpacked_page = -1;
  int64_t first = 0;
  if (part.growth == Growth::folded) {
    first = position / part.page_records * part.page_records;
    std::string wrong =
        check_summary(layout, index, view.summary(), tokens.first(static_cast<size_t>(first)));
    if (!wrong.empty()) return wrong;
  }
  for (int64_t slot = first; slot < position; ++slot) {
    if (part.growth == Growth::window && !visible(part, slot, position)) continue;
    const int64_t number = slot / part.page_records;
    const bool folded = part.growth == Growth::folded;
    const std::byte* page = folded ? view.open() : view.page(number);
    if (!folded && view.is_packed(number)) {
      if (number != unpacked_page) {
        unpacked.resize(static_cast<size_t>(part.page_bytes()));
        part.codec->unpack(page, part.page_bytes(), unpacked.data());
        unpacked_page = number;
      }
      page = unpacked.data();
    }
    std::string wrong = check_record(layout, index, page, slot, tokens);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

// The records of `open` onto `from` (nullptr: zeros), into `to`.
void fold_part(const StatePart& part, const float* from, const std::byte* open, float* to) {
  const auto count = static_cast<size_t>(part.summary_elements);
  std::vector<float> summary(count);
  if (from != nullptr) summary.assign(from, from + count);
  for (int64_t i = 0; i < part.page_records; ++i) {
    fold_records(summary, read_record(part, open, i));
  }
  std::memcpy(to, summary.data(), count * sizeof(float));
}

// Writes what a mixer leaves after the rows of a segment. paths: the whole prefix of every row.
void write_rows(const StateLayout& layout, int64_t index, const PartView& view,
                const Segment& segment, const std::vector<std::vector<int32_t>>& paths) {
  const StatePart& part = layout.part(index);
  const float* summary = view.summary();
  std::byte* open = view.open();
  int64_t reached = 0;  // boundaries by drafts
  for (int64_t row = 0; row < segment.length; ++row) {
    const int64_t slot = segment.start + row;
    const auto record = expected_record(layout, index, paths[static_cast<size_t>(row)]);
    if (part.growth != Growth::folded) {
      std::byte* page = view.page(slot / part.page_records);
      if (page != nullptr) write_record(part, page, slot, record);
      continue;
    }
    HEDDLE_CHECK(open != nullptr, "slot {} of part {}", slot, part.name);
    write_record(part, open, slot, record);
    if ((slot + 1) % part.page_records != 0) continue;
    float* next = view.next_summary();
    if (row >= segment.committed()) {
      if (reached == view.draft_folds()) continue;  // the last slot of a tree
      next = view.draft_summary(reached);
    }
    HEDDLE_CHECK(next != nullptr, "slot {} of part {}", slot, part.name);
    fold_part(part, summary, open, next);
    summary = next;
    if (row >= segment.committed()) open = view.draft_open(reached++);
  }
}

}  // namespace

StateLayout full_layout() {
  return layout_of(
      {{with_codec(per_token("k", DType::bf16, 2, 4)), per_token("v", DType::f32, 1, 3)},
       {with_codec(window("k", 2, 4, 64, 100, 5)), window("v", 1, 2, 64, 20, 0)},
       {folded("delta", 3, 2, 64, 12), window("conv", 1, 6, 4, 3, 0)},
       {folded("scan", 1, 5, 4, 7), window("shift", 2, 1, 1, 1, 0)},
       {folded("hla", 2, 3, 16, 9), window("conv", 1, 4, 16, 16, 2)},
       // Of groups above.
       {with_codec(per_token("latent", DType::bf16, 1, 8)), folded("kda", 1, 4, 16, 5)},
       {with_codec(per_token("rope", DType::bf16, 2, 2)), window("conv", 1, 3, 4, 3, 0)}});
}

StateLayout attention_layout() {
  return layout_of({{per_token("k", DType::bf16, 2, 4), per_token("v", DType::f32, 1, 4)},
                    {with_codec(per_token("latent", DType::bf16, 1, 8))}});
}

StateLayout hybrid_layout() {
  return layout_of({{per_token("k", DType::bf16, 2, 4)},
                    {folded("delta", 1, 8, 64, 256), window("conv", 1, 4, 4, 3, 0)}});
}

StateLayout fold_layout() {
  return layout_of({{per_token("k", DType::bf16, 2, 4)}, {folded("delta", 2, 3, 64, 16)}});
}

StateLayout small_folds_layout() {
  std::vector<StatePart> parts;
  for (const int64_t fold : {1, 2, 4, 8, 16})
    parts.push_back(folded(fmt::format("fold{}", fold), 2, 2, fold, 5));
  return layout_of({std::move(parts), {window("conv", 1, 6, 4, 3, 0)}});
}

StateLayout sliding_layout() {
  return layout_of(
      {{per_token("k", DType::bf16, 2, 4)},
       {with_codec(window("k", 2, 4, 64, 200, 0)), with_codec(window("v", 1, 2, 64, 200, 3))}});
}

std::vector<std::byte> expected_record(const StateLayout& layout, int64_t part,
                                       std::span<const int32_t> path) {
  const StatePart& declared = layout.part(part);
  std::vector<std::byte> record(static_cast<size_t>(declared.record_bytes()));
  const uint64_t base = path_hash(path, static_cast<uint64_t>(part));
  for (size_t i = 0; i < record.size(); ++i) {
    record[i] = static_cast<std::byte>(mix64(base + i) >> 56);
    if (declared.codec != nullptr && i % 2 == 1) record[i] = ~record[i - 1];
  }
  return record;
}

std::vector<float> expected_summary(const StateLayout& layout, int64_t part,
                                    std::span<const int32_t> tokens) {
  const StatePart& declared = layout.part(part);
  std::vector<float> summary(static_cast<size_t>(declared.summary_elements));
  for (size_t i = 0; i < tokens.size(); ++i) {
    fold_records(summary, expected_record(layout, part, tokens.first(i + 1)));
  }
  return summary;
}

std::string check_snapshot(const StateLayout& layout, const Snapshot& snapshot,
                           std::span<const int32_t> tokens) {
  if (snapshot.position != static_cast<int64_t>(tokens.size())) {
    return fmt::format("position {} after {} tokens", snapshot.position, tokens.size());
  }
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    const PageGroup& declared = layout.groups[g];
    const GroupSnapshot& group = snapshot.groups[g];
    std::vector<std::byte*> pages(static_cast<size_t>(group.first_page), nullptr);
    std::vector<uint8_t> packed(pages.size(), 0);
    for (const BlockRef& page : group.pages) {
      pages.push_back(page.data());
      packed.push_back(page.packed());
    }
    const int64_t records = declared.page_records;
    const int64_t covered = static_cast<int64_t>(pages.size()) * records;
    const bool folds = declared.growth == Growth::folded;
    if (!folds && (covered < snapshot.position || covered >= snapshot.position + records)) {
      return fmt::format("group {} at {}: {} pages", g, snapshot.position, pages.size());
    }
    if (folds && (snapshot.position % records == 0) != !group.open) {
      return fmt::format("group {} at {}: open page where there are no records", g,
                         snapshot.position);
    }
    const GroupView view{.pages = pages.data(),
                         .packed = packed.data(),
                         .summary = group.summary.data(),
                         .open = group.open.data()};
    for (const int64_t part : declared.parts) {
      std::string wrong = check_part(layout, part, {view, layout.place(part)}, tokens);
      if (!wrong.empty()) return wrong;
    }
  }
  return {};
}

namespace {

PartView view_of(const StateLayout& layout, const StepBatch& step, int64_t segment, int64_t part) {
  const int64_t layer = layout.entries[static_cast<size_t>(part)].layer;
  return step.state(layer).at(segment, part - layout.first_part[static_cast<size_t>(layer)]);
}

}  // namespace

std::string check_segment(const StateLayout& layout, const StepBatch& step, int64_t index,
                          std::span<const int32_t> before) {
  if (step.segment(index).length == 0) return {};
  for (int64_t i = 0; i < layout.parts(); ++i) {
    std::string wrong = check_part(layout, i, view_of(layout, step, index, i), before);
    if (!wrong.empty()) return "before the step: " + wrong;
  }
  return {};
}

void run_segment(const StateLayout& layout, const StepBatch& step, int64_t index,
                 std::span<const int32_t> before) {
  const Segment& segment = step.segment(index);
  std::vector<std::vector<int32_t>> paths;
  for (int64_t row = 0; row < segment.length; ++row) {
    const int64_t parent = segment.parent(row);
    paths.push_back(parent < 0 ? std::vector<int32_t>(before.begin(), before.end())
                               : paths[static_cast<size_t>(parent)]);
    paths.back().push_back(step.tokens()[static_cast<size_t>(segment.row + row)]);
  }
  for (int64_t i = 0; i < layout.parts(); ++i)
    write_rows(layout, i, view_of(layout, step, index, i), segment, paths);
}

std::vector<std::byte> last_record(const StateLayout& layout, const StepBatch& step,
                                   int64_t segment) {
  const StatePart& part = layout.part(0);
  HEDDLE_CHECK(part.growth == Growth::per_token && part.codec == nullptr, "part {}", part.name);
  const int64_t slot = step.segment(segment).start - 1;
  const PartView view = view_of(layout, step, segment, 0);
  return read_record(part, view.page(slot / part.page_records), slot);
}

std::string Sequence::step(std::span<const int32_t> committed, const DraftTree& drafts) {
  StepBatch step(*layout_);
  try {
    step.add(state_, committed, {}, {drafts.tokens, drafts.parents});
  } catch (const std::bad_alloc& error) {
    return error.what();
  }
  std::string wrong = check_segment(*layout_, step, 0, tokens_);
  if (!wrong.empty()) return wrong;
  run_segment(*layout_, step, 0, tokens_);
  step.commit(0, drafts.accepted);
  tokens_.insert(tokens_.end(), committed.begin(), committed.end());
  for (const int32_t draft : drafts.accepted) {
    tokens_.push_back(drafts.tokens[static_cast<size_t>(draft)]);
  }
  if (state_.position() != static_cast<int64_t>(tokens_.size())) return "wrong position";
  return {};
}

}  // namespace heddle::state::fake
