// Repacking of file matrices into the layout of matmul_layout.h.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "backend/weight_memory.h"
#include "base/check.h"
#include "base/round_up.h"
#include "ops/matmul/matmul_layout.h"
#include "ops/matmul/quant.h"

namespace heddle::ops {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

Section make_section(DType dtype, int64_t rows, int64_t cols) {
  Section s;
  s.dtype = dtype;
  s.rows = rows;
  s.tiles = (rows + kTileRows - 1) / kTileRows;
  if (is_float(dtype)) {
    s.tile_bytes = cols * kTileRows * dtype_info(dtype).block_bytes;
  } else {
    s.blocks = cols / 32;
    s.code_bytes = code_bytes(dtype);
    s.scale_bytes = scale_bytes(dtype);
    s.super_bytes = super_bytes(dtype);
    s.pair_bytes = pair_bytes(dtype);
    s.tile_bytes = (s.blocks + 1) / 2 * s.pair_bytes + s.blocks / 8 * s.super_bytes;
  }
  s.tile_bytes = round_up(s.tile_bytes, 64);
  return s;
}

uint32_t word_at(const uint8_t* p) {
  uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
}
void put_word(uint8_t* p, uint32_t word) { std::memcpy(p, &word, 4); }

constexpr uint32_t kNibbles = 0x0f0f0f0fu;
constexpr uint32_t kOnes = 0x01010101u;

// Byte vectors of groups (j, j + 4) of row r from a 32-block's 16 bytes of nibbles: the file keeps
// the halves of a block in the halves of a byte, and so does the tile.
void put_nibbles(const uint8_t* qs, int r, uint8_t* out) {
  for (int j = 0; j < 4; ++j) put_word(out + 64 * j + 4 * r, word_at(qs + 4 * j));
}
// Fifth bits, bit k of `bits` for k = 0..31, to bit g of byte i where k = 4 g + i.
void put_fifth_bits(uint32_t bits, int r, uint8_t* out) {
  uint32_t plane = 0;
  for (int g = 0; g < 8; ++g)
    plane |= ((((bits >> (4 * g)) & 15u) * 0x00204081u) & kOnes) << g;  // one bit to each byte
  put_word(out + 256 + 4 * r, plane);
}
// Eight 32-blocks of q4_k or q5_k: nibbles of blocks 2 p and 2 p + 1 share bytes; bit s of high[i]
// is the fifth bit of block s at k = i.
void put_k_codes(const Section& s, const uint8_t* low, const uint8_t* high, int r, uint8_t* out) {
  const int64_t step = s.code_bytes;
  for (int p = 0; p < 4; ++p, low += 32, out += s.pair_bytes) {
    for (int j = 0; j < 4; ++j) {
      const uint32_t a = word_at(low + 4 * j);
      const uint32_t b = word_at(low + 16 + 4 * j);
      put_word(out + 64 * j + 4 * r, (a & kNibbles) | ((b & kNibbles) << 4));
      put_word(out + step + 64 * j + 4 * r, ((a >> 4) & kNibbles) | (b & ~kNibbles));
    }
    if (!high) continue;
    uint32_t planes[2] = {0, 0};
    for (int g = 0; g < 8; ++g) {
      const uint32_t bits = word_at(high + 4 * g) >> (2 * p);
      planes[0] |= (bits & kOnes) << g;
      planes[1] |= ((bits >> 1) & kOnes) << g;
    }
    put_word(out + 256 + 4 * r, planes[0]);
    put_word(out + step + 256 + 4 * r, planes[1]);
  }
}
// Eight 32-blocks of q6_k. In each half (128 values) low byte i holds the low nibbles of values i
// and 64 + i, high byte i the high bits of values i, 32 + i, 64 + i and 96 + i.
void put_q6_codes(const Section& s, const uint8_t* low, const uint8_t* high, int r, uint8_t* out) {
  for (int half = 0; half < 2; ++half, low += 64, high += 32) {
    for (int block = 0; block < 4; ++block) {
      const uint8_t* nibbles = low + 32 * (block & 1);
      const int shift = block < 2 ? 0 : 4;
      uint8_t* to = out + s.codes_at(4 * half + block) - s.codes_at(0);
      uint32_t planes[2] = {0, 0};
      for (int j = 0; j < 4; ++j) {
        const uint32_t a = (word_at(nibbles + 4 * j) >> shift) & kNibbles;
        const uint32_t b = (word_at(nibbles + 16 + 4 * j) >> shift) & kNibbles;
        put_word(to + 64 * j + 4 * r, a | (b << 4));
        planes[0] |= ((word_at(high + 4 * j) >> (2 * block)) & (3 * kOnes)) << (2 * j);
        planes[1] |= ((word_at(high + 16 + 4 * j) >> (2 * block)) & (3 * kOnes)) << (2 * j);
      }
      put_word(to + 256 + 4 * r, planes[0]);
      put_word(to + 320 + 4 * r, planes[1]);
    }
  }
}

// Codes of one block of a file to row r of a tile; out: its first 32-block.
void put_codes(const Section& s, const std::byte* block, int r, uint8_t* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(block);
  switch (s.dtype) {
    case DType::q4_0:
      return put_nibbles(bytes + 2, r, out);
    case DType::q4_1:
      return put_nibbles(bytes + 4, r, out);
    case DType::q5_0:
      put_nibbles(bytes + 6, r, out);
      return put_fifth_bits(word_at(bytes + 2), r, out);
    case DType::q5_1:
      put_nibbles(bytes + 8, r, out);
      return put_fifth_bits(word_at(bytes + 4), r, out);
    case DType::q8_0:
      for (int g = 0; g < 8; ++g) put_word(out + 64 * g + 4 * r, word_at(bytes + 2 + 4 * g));
      return;
    case DType::q4_k:
      return put_k_codes(s, bytes + 16, nullptr, r, out);
    case DType::q5_k:
      return put_k_codes(s, bytes + 48, bytes + 16, r, out);
    default:
      return put_q6_codes(s, bytes, bytes + 128, r, out);
  }
}

// The inverse for one row.
void extract_codes(int64_t bytes, const uint8_t* in, int r, uint8_t* codes) {
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * r + i;
      if (bytes == 512) {
        codes[4 * g + i] = in[64 * g + at];
        continue;
      }
      int code = g < 4 ? in[64 * g + at] & 15 : in[64 * (g - 4) + at] >> 4;
      if (bytes == 320) code |= ((in[256 + at] >> g) & 1) << 4;
      if (bytes == 384) code |= ((in[256 + 64 * (g / 4) + at] >> (2 * (g % 4))) & 3) << 4;
      codes[4 * g + i] = static_cast<uint8_t>(code);
    }
  }
}

void put_u16(std::byte* at, int index, uint16_t value) { std::memcpy(at + 2 * index, &value, 2); }
uint16_t get_u16(const std::byte* at, int index) {
  uint16_t value;
  std::memcpy(&value, at + 2 * index, 2);
  return value;
}

// Scales of row r of one 32-block (`sub` counts 32-blocks within a super-block).
void put_scales(DType dtype, const BlockScales& parts, int sub, int r, std::byte* scales) {
  switch (dtype) {
    case DType::q4_k:
    case DType::q5_k:
      scales[r] = static_cast<std::byte>(parts.sub_scales[sub]);
      scales[16 + r] = static_cast<std::byte>(parts.sub_minima[sub]);
      return;
    case DType::q6_k:
      scales[2 * r] = static_cast<std::byte>(parts.sub_scales[2 * sub]);
      scales[2 * r + 1] = static_cast<std::byte>(parts.sub_scales[2 * sub + 1]);
      return;
    case DType::q4_1:
    case DType::q5_1:
      put_u16(scales, 16 + r, parts.minimum);
      [[fallthrough]];
    default:
      put_u16(scales, r, parts.scale);
  }
}

// rows[r]: the file's row that becomes row r of the tile; nullptr: padding, left as zeros.
void pack_block_tile(const Section& s, const std::byte* const* rows, std::byte* tile) {
  const DTypeInfo& info = dtype_info(s.dtype);
  const int subs = static_cast<int>(info.block_elements / 32);
  if (!rows[kTileRows - 1]) std::memset(tile, 0, static_cast<size_t>(s.tile_bytes));
  BlockScales parts;
  for (int64_t b = 0; b < s.blocks; b += subs) {
    std::byte* supers = tile + s.supers_at(b);
    for (int r = 0; r < kTileRows && rows[r]; ++r) {
      const std::byte* block = rows[r] + b / subs * info.block_bytes;
      put_codes(s, block, r, reinterpret_cast<uint8_t*>(tile + s.codes_at(b)));
      block_scales(s.dtype, block, parts);
      for (int sub = 0; sub < subs; ++sub)
        put_scales(s.dtype, parts, sub, r, tile + s.scales_at(b + sub));
      if (s.super_bytes) put_u16(supers, r, parts.scale);
      if (s.super_bytes == 64) put_u16(supers, 16 + r, parts.minimum);
    }
  }
}

template <class T>
void pack_float_tile(int64_t cols, const std::byte* const* rows, std::byte* tile) {
  constexpr int64_t kStep = 16;  // a square at a time: both sides stay in the cache
  for (int64_t k0 = 0; k0 < cols; k0 += kStep) {
    const int64_t k1 = std::min(cols, k0 + kStep);
    for (int r = 0; r < kTileRows; ++r) {
      for (int64_t k = k0; k < k1; ++k) {
        std::byte* at = tile + (k * kTileRows + r) * static_cast<int64_t>(sizeof(T));
        if (rows[r]) {
          std::memcpy(at, rows[r] + k * static_cast<int64_t>(sizeof(T)), sizeof(T));
        } else {
          std::memset(at, 0, sizeof(T));
        }
      }
    }
  }
}

// What a source is kept as.
DType kept_as(const MatrixSource& source, const PackOptions& options) {
  if (options.full_precision) return DType::f32;
  const bool requantise = is_float(source.dtype) && !is_float(options.quantize);
  return requantise && source.cols % 32 == 0 ? options.quantize : source.dtype;
}

struct Job {
  const MatrixSource* source;
  Section section;
};

// Packs tile `index` of a section. `converted`: scratch for rows that change their format.
void pack_tile(const Job& job, int64_t index, std::vector<std::byte>& converted,
               std::vector<float>& floats, std::byte* tile) {
  const MatrixSource& source = *job.source;
  const Section& s = job.section;
  const int64_t row_bytes = dtype_bytes(source.dtype, source.cols);
  const std::byte* rows[kTileRows] = {};
  const int64_t kept_bytes = dtype_bytes(s.dtype, source.cols);
  const bool convert = s.dtype != source.dtype;
  if (convert) {
    converted.resize(static_cast<size_t>(kTileRows * kept_bytes));
    floats.resize(static_cast<size_t>(source.cols));
  }
  for (int64_t r = 0; r < kTileRows; ++r) {
    const int64_t row = index * kTileRows + r;
    if (row >= source.rows) break;
    const int64_t from = source.row_order.empty() ? row : source.row_order[row];
    rows[r] = source.data + from * row_bytes;
    if (!convert) continue;
    std::byte* to = converted.data() + r * kept_bytes;
    if (s.dtype == DType::f32) {
      dequantize(source.dtype, rows[r], source.cols, floats.data());
      std::memcpy(to, floats.data(), static_cast<size_t>(kept_bytes));
    } else {
      dequantize(source.dtype, rows[r], source.cols, floats.data());
      quantize(s.dtype, floats.data(), source.cols, to);
    }
    rows[r] = to;
  }
  if (s.dtype == DType::f32) {
    pack_float_tile<uint32_t>(source.cols, rows, tile);
  } else if (is_float(s.dtype)) {
    pack_float_tile<uint16_t>(source.cols, rows, tile);
  } else {
    pack_block_tile(s, rows, tile);
  }
}

Status check_sources(std::span<const MatrixSource> sources, const PackOptions& options) {
  if (sources.empty()) return fail("pack: no matrix given");
  const DType q = options.quantize;
  if (!is_float(q) && q != DType::q8_0 && q != DType::q4_0)
    return fail("pack: cannot quantise to {}; expected q8_0 or q4_0", dtype_info(q).name);
  for (const MatrixSource& source : sources) {
    const DTypeInfo& info = dtype_info(source.dtype);
    if (!is_float(source.dtype) && !info.quantized)
      return fail("pack: a matrix of {} cannot be multiplied", info.name);
    if (source.rows < 1 || source.cols < 1)
      return fail("pack: matrix of {} x {}", source.rows, source.cols);
    if (source.cols != sources[0].cols)
      return fail("pack: stacked matrices of {} and {} columns", sources[0].cols, source.cols);
    if (source.cols % info.block_elements != 0)
      return fail("pack: {} columns of {}, whose blocks hold {}", source.cols, info.name,
                  info.block_elements);
    if (source.row_order.empty()) continue;
    if (static_cast<int64_t>(source.row_order.size()) != source.rows)
      return fail("pack: an order of {} rows for {} rows", source.row_order.size(), source.rows);
    for (const int32_t row : source.row_order)
      if (row < 0 || row >= source.rows)
        return fail("pack: row {} in the order of {} rows", row, source.rows);
  }
  return {};
}

// Gives the pages of a mapped file back behind the reader, so that a large matrix is never resident
// twice. Pages that a neighbour shares stay until the tensor is released.
class ReadBehind {
 public:
  ReadBehind(const MatrixSource& source, int64_t row)
      : source_(source),
        row_bytes_(dtype_bytes(source.dtype, source.cols)),
        done_(address(row) + kPage - 1) {
    done_ -= done_ % kPage;
    active_ = source.mapped && source.row_order.empty();
  }
  // Rows before `row` won't be read again.
  void read_to(int64_t row) {
    if (!active_) return;
    uintptr_t end = address(std::min(row, source_.rows));
    end -= end % kPage;
    if (end < done_ + kStep && row < source_.rows) return;
    if (end > done_) madvise(reinterpret_cast<void*>(done_), end - done_, MADV_DONTNEED);
    done_ = std::max(done_, end);
  }

 private:
  static constexpr uintptr_t kPage = 4096;
  static constexpr uintptr_t kStep = 1 << 20;
  uintptr_t address(int64_t row) const {
    return reinterpret_cast<uintptr_t>(source_.data) + static_cast<uintptr_t>(row * row_bytes_);
  }
  const MatrixSource& source_;
  int64_t row_bytes_;
  uintptr_t done_;  // pages before it are given back, or are not this reader's
  bool active_ = false;
};

}  // namespace

PackedMatrix::PackedMatrix() : impl_(std::make_unique<Impl>()) {}
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

int64_t PackedMatrix::rows() const { return impl_->rows; }
int64_t PackedMatrix::cols() const { return impl_->cols; }
int64_t PackedMatrix::bytes() const { return impl_->bytes; }

Result<PackedMatrix> pack(ThreadPool& pool, std::span<const MatrixSource> sources,
                          const PackOptions& options) {
  HEDDLE_TRY_STATUS(check_sources(sources, options));
  PackedMatrix matrix;
  PackedMatrix::Impl& impl = *matrix.impl_;
  impl.cols = sources[0].cols;
  std::vector<Job> jobs;
  for (const MatrixSource& source : sources) {
    Section s = make_section(kept_as(source, options), source.rows, source.cols);
    s.first_row = impl.rows;
    s.first_tile = impl.tiles;
    s.offset = impl.bytes;
    impl.rows += s.rows;
    impl.tiles += s.tiles;
    impl.bytes += s.tiles * s.tile_bytes;
    impl.any_blocks |= !is_float(s.dtype);
    impl.sections.push_back(s);
    jobs.push_back({&source, s});
  }
  HEDDLE_CHECK(options.memory != nullptr, "no memory to pack weights into");
  auto memory = options.memory->allocate(impl.bytes);
  if (!memory) return fail("a matrix of {} x {}: {}", impl.rows, impl.cols, memory.error().message);
  impl.data = *memory;
  for (const Job& job : jobs) {
    pool.parallel_for(job.section.tiles, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<std::byte> converted;
      std::vector<float> floats;
      ReadBehind behind(*job.source, begin * kTileRows);
      for (int64_t t = begin; t < end; ++t) {
        pack_tile(job, t, converted, floats,
                  impl.data + job.section.offset + t * job.section.tile_bytes);
        behind.read_to((t + 1) * kTileRows);
      }
    });
  }
  return matrix;
}

void PackedMatrix::dequantize_row(int64_t row, float* out) const {
  const Impl& impl = *impl_;
  HEDDLE_CHECK(row >= 0 && row < impl.rows, "row {} of {}", row, impl.rows);
  const Section* s = &impl.sections[0];
  while (row >= s->first_row + s->rows) ++s;
  const int64_t local = row - s->first_row;
  const std::byte* tile = impl.tile(*s, local / kTileRows);
  const int r = static_cast<int>(local % kTileRows);
  if (is_float(s->dtype)) {
    const int64_t size = dtype_info(s->dtype).block_bytes;
    for (int64_t k = 0; k < impl.cols; ++k)
      dequantize(s->dtype, tile + (k * kTileRows + r) * size, 1, out + k);
    return;
  }
  BlockParts parts;
  const int subs = static_cast<int>(dtype_info(s->dtype).block_elements / 32);
  for (int64_t b = 0; b < s->blocks; b += subs) {
    for (int sub = 0; sub < subs; ++sub) {
      extract_codes(s->code_bytes, reinterpret_cast<const uint8_t*>(tile + s->codes_at(b + sub)), r,
                    parts.codes + 32 * sub);
      const std::byte* scales = tile + s->scales_at(b + sub);
      if (s->dtype == DType::q6_k) {
        std::memcpy(parts.sub_scales + 2 * sub, scales + 2 * r, 2);
      } else if (s->super_bytes) {
        parts.sub_scales[sub] = static_cast<uint8_t>(scales[r]);
        parts.sub_minima[sub] = static_cast<uint8_t>(scales[16 + r]);
      } else {
        parts.scale = get_u16(scales, r);
        if (s->scale_bytes == 64) parts.minimum = get_u16(scales, 16 + r);
      }
    }
    if (s->super_bytes) {
      const std::byte* supers = tile + s->supers_at(b);
      parts.scale = get_u16(supers, r);
      if (s->super_bytes == 64) parts.minimum = get_u16(supers, 16 + r);
    }
    block_values(s->dtype, parts, out + 32 * b);
  }
}

}  // namespace heddle::ops
