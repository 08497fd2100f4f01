#include "state/snapshot_payload.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace heddle::state {

namespace {

// Slots [first, last) of a page of a per-token or window part that are saved.
struct SlotRange {
  int64_t first = 0;
  int64_t last = 0;
};

// Windows in full pages save whole pages: every record in them is valid, and lets the snapshot be
// trimmed. Others save what a token at `position` sees.
SlotRange saved_slots(const StatePart& part, int64_t position, int64_t page) {
  const int64_t begin = page * part.page_records;
  const int64_t end = std::min(begin + part.page_records, position);
  if (part.growth == Growth::per_token) return {begin, end};
  const int64_t start = std::max<int64_t>(0, position - part.window);
  if (end <= start && begin >= part.sinks) return {begin, begin};
  if (part.stores_whole_chunk()) return {begin, end};
  const int64_t first = begin < part.sinks ? begin : std::max(begin, start);
  const int64_t last = end > start ? end : std::min(end, part.sinks);
  return {first, last};
}

int64_t first_saved_page(const StatePart& part, int64_t position) {
  if (part.growth == Growth::per_token || part.sinks > 0) return 0;
  return std::max<int64_t>(0, position - part.window) / part.page_records;
}

int64_t page_count(const StatePart& part, int64_t position) {
  return (position + part.page_records - 1) / part.page_records;
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
  for (const StateLayout::Entry& entry : layout.entries) {
    const StatePart& part = entry.part;
    const auto record = static_cast<double>(part.record_bytes());
    const auto page_bytes = static_cast<double>(part.page_bytes());
    if (part.growth == Growth::folded) {
      const int64_t open = position % part.page_records;
      const bool summary = position >= part.page_records;
      total.payload += record * static_cast<double>(open) +
                       (summary ? static_cast<double>(part.summary_bytes()) : 0);
      total.blocks +=
          (open > 0 ? page_bytes : 0) + (summary ? static_cast<double>(part.summary_bytes()) : 0);
      continue;
    }
    for (int64_t page = first_saved_page(part, position); page < page_count(part, position);
         ++page) {
      const SlotRange slots = saved_slots(part, position, page);
      if (slots.first == slots.last) continue;
      total.payload += record * static_cast<double>(slots.last - slots.first);
      total.blocks += page_bytes;
    }
  }
  return total;
}

PayloadWriter::PayloadWriter(std::vector<std::byte>& out, int level) : out_(out) {
  if (level <= 0) return;
  context_.reset(ZSTD_createCCtx());
  HEDDLE_CHECK(context_ != nullptr, "no memory for a zstd context");
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
    HEDDLE_CHECK(!ZSTD_isError(left), "zstd: {}", ZSTD_getErrorName(left));
    out_.insert(out_.end(), buffer_.begin(), buffer_.begin() + static_cast<int64_t>(output.pos));
    done = mode == ZSTD_e_end ? left == 0 : input.pos == input.size;
  }
}

void PayloadWriter::write_part(const StatePart& part, const PartSnapshot& from, int64_t position) {
  const auto append = [&](std::byte* data, int64_t size) { write(data, size); };
  if (part.growth == Growth::folded) {
    if (position >= part.page_records) {
      HEDDLE_CHECK(from.summary, "part {} has no summary at {}", part.name, position);
      write(from.summary.data(), part.summary_bytes());
    }
    if (position % part.page_records > 0) {
      HEDDLE_CHECK(from.open, "part {} has no open records at {}", part.name, position);
      visit_records(part, from.open.data(), 0, position % part.page_records, append);
    }
    return;
  }
  for (int64_t page = first_saved_page(part, position); page < page_count(part, position); ++page) {
    const SlotRange slots = saved_slots(part, position, page);
    if (slots.first == slots.last) continue;
    const int64_t index = page - from.first_page;
    HEDDLE_CHECK(index >= 0 && index < static_cast<int64_t>(from.pages.size()) &&
                     from.pages[static_cast<size_t>(index)],
                 "part {} has no page {} at {}", part.name, page, position);
    const int64_t start = page * part.page_records;
    const BlockRef& block = from.pages[static_cast<size_t>(index)];
    std::byte* records = block.data();
    if (block.packed()) {
      unpacked_.resize(static_cast<size_t>(part.page_bytes()));
      records = unpacked_.data();
      part.codec->unpack(block.data(), part.page_bytes(), records);
    }
    visit_records(part, records, slots.first - start, slots.last - start, append);
  }
}

PayloadReader::PayloadReader(std::span<const std::byte> stored, bool compressed)
    : input_{stored.data(), stored.size(), 0} {
  if (!compressed) return;
  context_.reset(ZSTD_createDCtx());
  HEDDLE_CHECK(context_ != nullptr, "no memory for a zstd context");
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

bool PayloadReader::read_part(const StatePart& part, int64_t position, BlockPool& pool,
                              PartSnapshot& to) {
  bool good = true;
  const auto fill = [&](std::byte* data, int64_t size) { good = good && read(data, size); };
  if (part.growth == Growth::folded) {
    if (position >= part.page_records) {
      to.summary = pool.allocate(part.summary_bytes(), part.growth);
      fill(to.summary.data(), part.summary_bytes());
    }
    if (position % part.page_records > 0) {
      to.open = pool.allocate(part.page_bytes(), part.growth);
      visit_records(part, to.open.data(), 0, position % part.page_records, fill);
    }
    return good;
  }
  to.first_page = first_saved_page(part, position);
  for (int64_t page = to.first_page; page < page_count(part, position) && good; ++page) {
    const SlotRange slots = saved_slots(part, position, page);
    to.pages.emplace_back();
    if (slots.first == slots.last) continue;
    to.pages.back() = pool.allocate(part.page_bytes(), part.growth);
    const int64_t start = page * part.page_records;
    visit_records(part, to.pages.back().data(), slots.first - start, slots.last - start, fill);
    if (good && slots.first == start && slots.last == start + part.page_records)
      to.pages.back() = pool.pack(part, std::move(to.pages.back()));
  }
  return good;
}

}  // namespace heddle::state
