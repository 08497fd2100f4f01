#include "state/snapshot_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "base/check.h"
#include "base/mmap_file.h"
#include "base/out_of_memory.h"
#include "base/write_file.h"
#include "state/snapshot_payload.h"

namespace heddle::state {

namespace {

static_assert(std::endian::native == std::endian::little, "the format is the memory's byte order");

constexpr std::string_view kMagic = "HDLSNAP1";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kCompressedFlag = 1;
constexpr size_t kPrefixBytes = 8 + 4 + 4 + 8 + 8;
constexpr size_t kChecksumBytes = 16;
constexpr size_t kMaxNameBytes = 4096;

// ---- writing ----

class Writer {
 public:
  void raw(const void* data, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), bytes, bytes + size);
  }
  template <class T>
  void number(T value) {
    raw(&value, sizeof(value));
  }
  void text(std::string_view value) {
    number(static_cast<uint32_t>(value.size()));
    raw(value.data(), value.size());
  }
  template <class T>
  void patch(size_t at, T value) {
    std::memcpy(bytes_.data() + at, &value, sizeof(value));
  }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

void write_header(Writer& out, const StateLayout& layout, const SnapshotIdentity& identity,
                  std::span<const int32_t> tokens) {
  out.text(identity.model);
  out.number(identity.weights.low);
  out.number(identity.weights.high);
  out.number(static_cast<uint32_t>(identity.mixers.size()));
  for (const std::string& mixer : identity.mixers) out.text(mixer);
  out.number(static_cast<uint64_t>(tokens.size()));
  out.raw(tokens.data(), tokens.size_bytes());
  out.number(static_cast<uint32_t>(layout.first_part.size() - 1));
  out.number(static_cast<uint32_t>(layout.entries.size()));
  for (const auto& [layer, part] : layout.entries) {
    out.number(layer);
    out.text(part.name);
    out.number(static_cast<uint8_t>(part.growth));
    out.text(dtype_info(part.dtype).name);
    for (const int64_t value : {part.strips, part.strip, part.page_records, part.window, part.sinks,
                                part.summary_elements}) {
      out.number(value);
    }
  }
}

// ---- reading ----

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  size_t left() const { return bytes_.size(); }
  Result<std::span<const std::byte>> raw(size_t size, const char* what) {
    if (size > bytes_.size()) {
      return fail("{}: snapshot header ends inside {}: expected {} bytes, {} left", where_, what,
                  size, bytes_.size());
    }
    const auto taken = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return taken;
  }
  template <class T>
  Result<T> number(const char* what) {
    HEDDLE_TRY(const auto taken, raw(sizeof(T), what));
    T value;
    std::memcpy(&value, taken.data(), sizeof(T));
    return value;
  }
  Result<std::string> text(const char* what) {
    HEDDLE_TRY(const auto size, number<uint32_t>(what));
    if (size > kMaxNameBytes) {
      return fail("{}: {} of {} bytes in a snapshot header; expected at most {}", where_, what,
                  size, kMaxNameBytes);
    }
    HEDDLE_TRY(const auto taken, raw(size, what));
    return std::string(reinterpret_cast<const char*>(taken.data()), taken.size());
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view where_;
};

Result<StatePart> read_part(Reader& in, std::string_view where) {
  StatePart part;
  HEDDLE_TRY(part.name, in.text("the name of a part"));
  HEDDLE_TRY(const auto growth, in.number<uint8_t>("a growth class"));
  if (growth >= kGrowthClasses) {
    return fail("{}: part '{}' has growth class {}; expected less than {}", where, part.name,
                growth, kGrowthClasses);
  }
  part.growth = static_cast<Growth>(growth);
  HEDDLE_TRY(const auto dtype, in.text("an element type"));
  const std::optional<DType> known = dtype_from_name(dtype);
  if (!known) return fail("{}: part '{}' has unknown element type '{}'", where, part.name, dtype);
  part.dtype = *known;
  for (int64_t* field : {&part.strips, &part.strip, &part.page_records, &part.window, &part.sinks,
                         &part.summary_elements}) {
    HEDDLE_TRY(*field, in.number<int64_t>("the shape of a part"));
  }
  return part;
}

Result<StateLayout> read_layout(Reader& in, std::string_view where) {
  HEDDLE_TRY(const auto layers, in.number<uint32_t>("the number of layers"));
  HEDDLE_TRY(const auto parts, in.number<uint32_t>("the number of parts"));
  if (layers > 1'000'000) return fail("{}: snapshot of {} layers", where, layers);
  std::vector<std::vector<StatePart>> by_layer(layers);
  int64_t last = 0;
  for (uint32_t i = 0; i < parts; ++i) {  // every part takes bytes: bounded by the header's length
    HEDDLE_TRY(const auto layer, in.number<int64_t>("a layer number"));
    if (layer < 0 || layer >= static_cast<int64_t>(layers)) {
      return fail("{}: part {} belongs to layer {} of {}", where, i, layer, layers);
    }
    if (layer < last) {
      return fail("{}: part {} of layer {} behind one of layer {}", where, i, layer, last);
    }
    last = layer;
    HEDDLE_TRY(auto part, read_part(in, where));
    by_layer[static_cast<size_t>(layer)].push_back(std::move(part));
  }
  auto layout = StateLayout::make(std::move(by_layer));
  if (!layout) return fail("{}: {}", where, layout.error().message);
  return layout;
}

Status compare_part(const StatePart& found, const StatePart& expected, int64_t layer,
                    std::string_view where) {
  const auto differs = [&](std::string_view what, auto have, auto want) -> Status {
    return fail("{}: layer {}, part '{}': {} {} in the snapshot; expected {}", where, layer,
                expected.name, what, have, want);
  };
  if (found.name != expected.name) return differs("name", found.name, expected.name);
  if (found.growth != expected.growth) {
    return differs("growth class", static_cast<int>(found.growth),
                   static_cast<int>(expected.growth));
  }
  if (found.dtype != expected.dtype) {
    return differs("element type", dtype_info(found.dtype).name, dtype_info(expected.dtype).name);
  }
  struct Field {
    std::string_view name;
    int64_t StatePart::*value;
  };
  for (const auto& [name, value] :
       std::initializer_list<Field>{{"strips", &StatePart::strips},
                                    {"strip elements", &StatePart::strip},
                                    {"records per page", &StatePart::page_records},
                                    {"window", &StatePart::window},
                                    {"sinks", &StatePart::sinks},
                                    {"summary elements", &StatePart::summary_elements}}) {
    if (found.*value != expected.*value) return differs(name, found.*value, expected.*value);
  }
  return {};
}

Status compare(const SnapshotHeader& header, const StateLayout& layout,
               const SnapshotIdentity& identity, std::string_view where) {
  const SnapshotIdentity& found = header.identity;
  if (found.model != identity.model) {
    return fail("{}: snapshot of model '{}'; expected '{}'", where, found.model, identity.model);
  }
  if (found.weights != identity.weights) {
    return fail("{}: snapshot of weights {:016x}{:016x}; expected {:016x}{:016x}", where,
                found.weights.high, found.weights.low, identity.weights.high, identity.weights.low);
  }
  if (found.mixers.size() != identity.mixers.size()) {
    return fail("{}: snapshot names {} mixers; expected {}", where, found.mixers.size(),
                identity.mixers.size());
  }
  for (size_t i = 0; i < found.mixers.size(); ++i) {
    if (found.mixers[i] == identity.mixers[i]) continue;
    return fail("{}: layer {} is '{}' in the snapshot; expected '{}'", where, i, found.mixers[i],
                identity.mixers[i]);
  }
  if (header.layout.parts() != layout.parts() ||
      header.layout.first_part.size() != layout.first_part.size()) {
    return fail("{}: snapshot of {} parts in {} layers; expected {} in {}", where,
                header.layout.parts(), header.layout.first_part.size() - 1, layout.parts(),
                layout.first_part.size() - 1);
  }
  for (size_t i = 0; i < layout.entries.size(); ++i) {
    const auto& [layer, part] = layout.entries[i];
    if (header.layout.entries[i].layer != layer) {
      return fail("{}: part {} belongs to layer {} in the snapshot; expected {}", where, i,
                  header.layout.entries[i].layer, layer);
    }
    HEDDLE_TRY_STATUS(compare_part(header.layout.entries[i].part, part, layer, where));
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_snapshot(const StateLayout& layout, const SnapshotIdentity& identity,
                                       std::span<const int32_t> tokens, const Snapshot& snapshot,
                                       int compression) {
  HEDDLE_CHECK(static_cast<int64_t>(tokens.size()) == snapshot.position, "{} tokens, position {}",
               tokens.size(), snapshot.position);
  HEDDLE_CHECK(snapshot.groups.size() == layout.groups.size(), "snapshot of another layout");
  Writer out;
  const auto expected = static_cast<size_t>(snapshot_sizes(layout, snapshot.position).payload);
  out.bytes().reserve(kPrefixBytes + kChecksumBytes + tokens.size_bytes() + 4096 +
                      (compression > 0 ? expected / 2 : expected));
  out.raw(kMagic.data(), kMagic.size());
  out.number(kVersion);
  out.number(compression > 0 ? kCompressedFlag : uint32_t{0});
  out.number(uint64_t{0});
  out.number(uint64_t{0});
  write_header(out, layout, identity, tokens);
  const size_t header_bytes = out.bytes().size() - kPrefixBytes;
  PayloadWriter payload(out.bytes(), compression);
  for (int64_t i = 0; i < layout.parts(); ++i) payload.write_part(layout, i, snapshot);
  payload.finish();
  out.patch(16, static_cast<uint64_t>(header_bytes));
  out.patch(24, static_cast<uint64_t>(out.bytes().size() - kPrefixBytes - header_bytes));
  const Hash128 checksum = hash128(out.bytes());
  out.number(checksum.low);
  out.number(checksum.high);
  return std::move(out.bytes());
}

Status save_snapshot(const std::string& path, const StateLayout& layout,
                     const SnapshotIdentity& identity, std::span<const int32_t> tokens,
                     const Snapshot& snapshot, int compression) {
  const std::vector<std::byte> bytes =
      encode_snapshot(layout, identity, tokens, snapshot, compression);
  return write_file(path, bytes, "a snapshot");
}

Result<SnapshotHeader> read_snapshot_header(std::span<const std::byte> bytes,
                                            std::string_view where) {
  if (bytes.size() < kPrefixBytes + kChecksumBytes) {
    return fail("{}: {} bytes are too few for a snapshot; expected at least {}", where,
                bytes.size(), kPrefixBytes + kChecksumBytes);
  }
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    return fail("{}: no snapshot: expected the first bytes to be {}", where, kMagic);
  }
  Reader prefix(bytes.subspan(kMagic.size()), where);
  HEDDLE_TRY(const auto version, prefix.number<uint32_t>("the version"));
  HEDDLE_TRY(const auto flags, prefix.number<uint32_t>("the flags"));
  HEDDLE_TRY(const auto header_bytes, prefix.number<uint64_t>("the header's length"));
  HEDDLE_TRY(const auto payload_bytes, prefix.number<uint64_t>("the payload's length"));
  if (version != kVersion) {
    return fail("{}: snapshot format {}; expected {}", where, version, kVersion);
  }
  if ((flags & ~kCompressedFlag) != 0)
    return fail("{}: unknown snapshot flags {:#x}", where, flags);
  const uint64_t room = bytes.size() - kPrefixBytes - kChecksumBytes;
  if (header_bytes > room || payload_bytes != room - header_bytes) {
    return fail("{}: snapshot of {} bytes says header {} and payload {}; cut short or damaged",
                where, bytes.size(), header_bytes, payload_bytes);
  }
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  Hash128 stored;
  std::memcpy(&stored.low, body.data() + body.size(), 8);
  std::memcpy(&stored.high, body.data() + body.size() + 8, 8);
  const Hash128 computed = hash128(body);
  if (stored != computed) {
    return fail("{}: damaged snapshot: checksum {:016x}{:016x}, expected {:016x}{:016x}", where,
                computed.high, computed.low, stored.high, stored.low);
  }
  SnapshotHeader header;
  header.compressed = (flags & kCompressedFlag) != 0;
  header.header_bytes = static_cast<int64_t>(header_bytes);
  header.payload_bytes = static_cast<int64_t>(payload_bytes);
  Reader in(bytes.subspan(kPrefixBytes, static_cast<size_t>(header_bytes)), where);
  HEDDLE_TRY(header.identity.model, in.text("the model's name"));
  HEDDLE_TRY(header.identity.weights.low, in.number<uint64_t>("the weight hash"));
  HEDDLE_TRY(header.identity.weights.high, in.number<uint64_t>("the weight hash"));
  HEDDLE_TRY(const auto mixers, in.number<uint32_t>("the number of mixers"));
  for (uint32_t i = 0; i < mixers; ++i) {
    HEDDLE_TRY(auto mixer, in.text("the name of a mixer"));
    header.identity.mixers.push_back(std::move(mixer));
  }
  HEDDLE_TRY(const auto count, in.number<uint64_t>("the number of tokens"));
  if (count > in.left() / sizeof(int32_t)) {
    return fail("{}: {} tokens in a snapshot header with {} bytes left", where, count, in.left());
  }
  HEDDLE_TRY(const auto ids, in.raw(static_cast<size_t>(count) * sizeof(int32_t), "tokens"));
  header.tokens.resize(static_cast<size_t>(count));
  if (count > 0) std::memcpy(header.tokens.data(), ids.data(), ids.size());
  HEDDLE_TRY(header.layout, read_layout(in, where));
  if (in.left() != 0) {
    return fail("{}: {} bytes behind the parts of a snapshot header", where, in.left());
  }
  return header;
}

namespace {

Result<SavedSnapshot> decode(std::span<const std::byte> bytes, std::string_view where,
                             const StateLayout& layout, const SnapshotIdentity& identity,
                             BlockPool& pool, int64_t max_bytes) {
  HEDDLE_TRY(auto header, read_snapshot_header(bytes, where));
  HEDDLE_TRY_STATUS(compare(header, layout, identity, where));
  const auto position = static_cast<int64_t>(header.tokens.size());
  const SnapshotSizes expected = snapshot_sizes(layout, position);
  if (expected.blocks > static_cast<double>(max_bytes)) {
    return fail("{}: snapshot at position {} needs {} bytes; expected at most {}", where, position,
                expected.blocks, max_bytes);
  }
  if (!header.compressed && static_cast<double>(header.payload_bytes) != expected.payload) {
    return fail("{}: snapshot payload of {} bytes; expected {} at position {}", where,
                header.payload_bytes, expected.payload, position);
  }
  PayloadReader in(bytes.subspan(kPrefixBytes + static_cast<size_t>(header.header_bytes),
                                 static_cast<size_t>(header.payload_bytes)),
                   header.compressed);
  SavedSnapshot saved;
  saved.tokens = std::move(header.tokens);
  saved.snapshot.position = position;
  saved.snapshot.groups.resize(layout.groups.size());
  for (int64_t i = 0; i < layout.parts(); ++i) {
    if (!in.read_part(layout, i, pool, saved.snapshot)) {
      const auto& [layer, part] = layout.entries[static_cast<size_t>(i)];
      return fail("{}: snapshot payload ends inside layer {}, part '{}'", where, layer, part.name);
    }
  }
  if (!in.at_end()) {
    return fail("{}: snapshot payload is longer than the {} bytes expected at position {}", where,
                expected.payload, position);
  }
  pack_complete_pages(layout, pool, saved.snapshot);
  return saved;
}

}  // namespace

Result<SavedSnapshot> decode_snapshot(std::span<const std::byte> bytes, std::string_view where,
                                      const StateLayout& layout, const SnapshotIdentity& identity,
                                      BlockPool& pool, int64_t max_bytes) {
  return within_memory("a snapshot was read",
                       [&] { return decode(bytes, where, layout, identity, pool, max_bytes); });
}

Result<SavedSnapshot> load_snapshot(const std::string& path, const StateLayout& layout,
                                    const SnapshotIdentity& identity, BlockPool& pool,
                                    int64_t max_bytes) {
  HEDDLE_TRY(const auto file, MmapFile::open(path));
  return decode_snapshot(file.bytes(), path, layout, identity, pool, max_bytes);
}

}  // namespace heddle::state
