#include "state/snapshot_payload.h"

#include <zstd_errors.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"
#include "state/page_block.h"

namespace heddle::state {

namespace {

// Slots [first, last) of a page of a per-token or window group that are saved.
struct SlotRange {
  int64_t first = 0;
  int64_t last = 0;
  bool empty() const { return first == last; }
};

// Windows in full pages save whole pages: every record in them is valid, and lets the snapshot be
// trimmed. Others save what a token at `position` sees.
SlotRange saved_slots(const PageGroup& group, int64_t position, int64_t page) {
  const int64_t begin = page * group.page_records;
  const int64_t end = std::min(begin + group.page_records, position);
  if (group.growth == Growth::per_token) return {begin, end};
  const int64_t start = group.first_kept(position);
  if (end <= start && begin >= group.sinks) return {begin, begin};
  if (group.stores_whole_chunk()) return {begin, end};
  const int64_t first = begin < group.sinks ? begin : std::max(begin, start);
  const int64_t last = end > start ? end : std::min(end, group.sinks);
  return {first, last};
}

int64_t first_saved_page(const PageGroup& group, int64_t position) {
  return group.sinks > 0 ? 0 : group.first_kept(position) / group.page_records;
}

double record_bytes(const StateLayout& layout, const PageGroup& group) {
  double bytes = 0;
  for (const int64_t part : group.parts)
    bytes += static_cast<double>(layout.part(part).record_bytes());
  return bytes;
}

double summary_bytes(const StateLayout& layout, const PageGroup& group) {
  double bytes = 0;
  for (const int64_t part : group.parts)
    bytes += static_cast<double>(layout.part(part).summary_bytes());
  return bytes;
}

// Calls f(bytes, length) for every contiguous run of the records [first, last) of a page.
template <class Function>
void visit_records(const StatePart& part, std::byte* page, int64_t first, int64_t last,
                   Function&& f) {
  const int64_t strip_bytes = dtype_bytes(part.dtype, part.strip);
  if (first == 0 && last == part.page_records) {
    f(page, part.page_bytes());
    return;
  }
  for (int64_t strip = 0; strip < part.strips; ++strip) {
    f(page + (strip * part.page_records + first) * strip_bytes, (last - first) * strip_bytes);
  }
}

}  // namespace

SnapshotSizes snapshot_sizes(const StateLayout& layout, int64_t position) {
  SnapshotSizes total;
  for (const PageGroup& group : layout.groups) {
    const double record = record_bytes(layout, group);
    const auto page_bytes = static_cast<double>(group.page_bytes);
    if (group.growth == Growth::folded) {
      const int64_t open = position % group.page_records;
      const bool summary = position >= group.page_records;
      total.payload +=
          record * static_cast<double>(open) + (summary ? summary_bytes(layout, group) : 0);
      total.blocks +=
          (open > 0 ? page_bytes : 0) + (summary ? static_cast<double>(group.summary_bytes) : 0);
      continue;
    }
    for (int64_t page = first_saved_page(group, position); page < group.pages_for(position);
         ++page) {
      const SlotRange slots = saved_slots(group, position, page);
      if (slots.empty()) continue;
      total.payload += record * static_cast<double>(slots.last - slots.first);
      total.blocks += page_bytes;
    }
  }
  return total;
}

void pack_complete_pages(const StateLayout& layout, BlockPool& pool, Snapshot& snapshot) {
  for (size_t i = 0; i < layout.groups.size(); ++i) {
    const PageGroup& group = layout.groups[i];
    if (group.growth == Growth::folded) continue;
    GroupSnapshot& kept = snapshot.groups[i];
    int64_t page = kept.first_page;
    for (BlockRef& block : kept.pages) {
      const SlotRange slots = saved_slots(group, snapshot.position, page++);
      if (slots.last - slots.first == group.page_records)
        block = pack_block(layout, group, std::move(block), pool);
    }
  }
}

PayloadWriter::PayloadWriter(std::vector<std::byte>& out, int level) : out_(out) {
  if (level <= 0) return;
  context_.reset(ZSTD_createCCtx());
  if (context_ == nullptr) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, std::min(level, 19));
  buffer_.resize(ZSTD_CStreamOutSize());
}

void PayloadWriter::write(const std::byte* data, int64_t size) {
  if (context_ == nullptr) {
    out_.insert(out_.end(), data, data + size);
  } else {
    compress(data, static_cast<size_t>(size), ZSTD_e_continue);
  }
}

void PayloadWriter::finish() {
  if (context_ != nullptr) compress(nullptr, 0, ZSTD_e_end);
}

void PayloadWriter::compress(const std::byte* data, size_t size, ZSTD_EndDirective mode) {
  ZSTD_inBuffer input{data, size, 0};
  for (bool done = false; !done;) {
    ZSTD_outBuffer output{buffer_.data(), buffer_.size(), 0};
    const size_t left = ZSTD_compressStream2(context_.get(), &output, &input, mode);
    if (ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation) throw std::bad_alloc();
    HEDDLE_CHECK(!ZSTD_isError(left), "zstd: {}", ZSTD_getErrorName(left));
    out_.insert(out_.end(), buffer_.begin(), buffer_.begin() + static_cast<int64_t>(output.pos));
    done = mode == ZSTD_e_end ? left == 0 : input.pos == input.size;
  }
}

void PayloadWriter::write_part(const StateLayout& layout, int64_t index, const Snapshot& from) {
  const StatePart& part = layout.part(index);
  const PartPlace& place = layout.place(index);
  const PageGroup& group = layout.groups[static_cast<size_t>(place.group)];
  const GroupSnapshot& kept = from.groups[static_cast<size_t>(place.group)];
  const int64_t position = from.position;
  const auto append = [&](std::byte* data, int64_t size) { write(data, size); };
  if (part.growth == Growth::folded) {
    if (position >= part.page_records) {
      HEDDLE_CHECK(kept.summary, "part {} has no summary at {}", part.name, position);
      write(kept.summary.data() + place.summary_offset, part.summary_bytes());
    }
    if (position % part.page_records > 0) {
      HEDDLE_CHECK(kept.open, "part {} has no open records at {}", part.name, position);
      visit_records(part, kept.open.data() + place.offset, 0, position % part.page_records, append);
    }
    return;
  }
  for (int64_t page = first_saved_page(group, position); page < group.pages_for(position); ++page) {
    const SlotRange slots = saved_slots(group, position, page);
    if (slots.empty()) continue;
    const int64_t at = page - kept.first_page;
    HEDDLE_CHECK(at >= 0 && at < std::ssize(kept.pages) && kept.pages[static_cast<size_t>(at)],
                 "part {} has no page {} at {}", part.name, page, position);
    std::byte* records = plain_page(part, place, kept.pages[static_cast<size_t>(at)], unpacked_);
    const int64_t start = page * part.page_records;
    visit_records(part, records, slots.first - start, slots.last - start, append);
  }
}

PayloadReader::PayloadReader(std::span<const std::byte> stored, bool compressed)
    : input_{stored.data(), stored.size(), 0} {
  if (!compressed) return;
  context_.reset(ZSTD_createDCtx());
  if (context_ == nullptr) throw std::bad_alloc();
  ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, 27);
}

bool PayloadReader::read(std::byte* data, int64_t size) {
  const auto wanted = static_cast<size_t>(size);
  if (context_ == nullptr) {
    if (input_.size - input_.pos < wanted) return false;
    std::memcpy(data, static_cast<const std::byte*>(input_.src) + input_.pos, wanted);
    input_.pos += wanted;
    return true;
  }
  ZSTD_outBuffer output{data, wanted, 0};
  while (output.pos < output.size) {
    const size_t before = input_.pos + output.pos;
    last_ = ZSTD_decompressStream(context_.get(), &output, &input_);
    if (ZSTD_isError(last_) || input_.pos + output.pos == before) return false;
  }
  return true;
}

bool PayloadReader::at_end() {
  std::byte extra;
  if (context_ == nullptr) return input_.pos == input_.size;
  ZSTD_outBuffer output{&extra, 1, 0};
  while (last_ != 0) {
    const size_t before = input_.pos;
    last_ = ZSTD_decompressStream(context_.get(), &output, &input_);
    if (ZSTD_isError(last_) || output.pos > 0) return false;
    if (last_ != 0 && input_.pos == before) return false;
  }
  return input_.pos == input_.size;
}

bool PayloadReader::read_part(const StateLayout& layout, int64_t index, BlockPool& pool,
                              Snapshot& to) {
  const StatePart& part = layout.part(index);
  const PartPlace& place = layout.place(index);
  const PageGroup& group = layout.groups[static_cast<size_t>(place.group)];
  GroupSnapshot& kept = to.groups[static_cast<size_t>(place.group)];
  const int64_t position = to.position;
  bool good = true;
  const auto fill = [&](std::byte* data, int64_t size) { good = good && read(data, size); };
  const auto take = [&](BlockRef& block, int64_t bytes) {
    if (!block) block = pool.allocate(bytes, group.growth);
    return block.data();
  };
  if (part.growth == Growth::folded) {
    if (position >= part.page_records)
      fill(take(kept.summary, group.summary_bytes) + place.summary_offset, part.summary_bytes());
    if (position % part.page_records > 0)
      visit_records(part, take(kept.open, group.page_bytes) + place.offset, 0,
                    position % part.page_records, fill);
    return good;
  }
  kept.first_page = first_saved_page(group, position);
  kept.pages.resize(static_cast<size_t>(group.pages_for(position) - kept.first_page));
  for (int64_t page = kept.first_page; page < group.pages_for(position) && good; ++page) {
    const SlotRange slots = saved_slots(group, position, page);
    if (slots.empty()) continue;
    BlockRef& block = kept.pages[static_cast<size_t>(page - kept.first_page)];
    const int64_t start = page * part.page_records;
    visit_records(part, take(block, group.page_bytes) + place.offset, slots.first - start,
                  slots.last - start, fill);
  }
  return good;
}

}  // namespace heddle::state
