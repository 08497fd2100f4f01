#include "ops/matmul/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <string>

#include "backend/context.h"
#include "backend/target.h"
#include "backend/weight_memory.h"
#include "base/rng.h"
#include "ops/naive.h"

namespace heddle::ops {
namespace {

using Bytes = std::vector<std::byte>;

const DType kBlockTypes[] = {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1,
                             DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k};
const DType kAllTypes[] = {DType::f32,  DType::f16,  DType::bf16, DType::q4_0,
                           DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0,
                           DType::q4_k, DType::q5_k, DType::q6_k};

struct Vectors {
  Bytes blocks;
  std::vector<float> values;
};
// Blocks and their values as the gguf package has them (quant_vectors.py).
std::map<std::string, Vectors> gguf_vectors() {
  std::ifstream file(HEDDLE_SOURCE_DIR "/src/ops/matmul/quant_vectors.bin", std::ios::binary);
  std::map<std::string, Vectors> all;
  char name[9] = {};
  uint32_t sizes[2];
  while (file.read(name, 8) && file.read(reinterpret_cast<char*>(sizes), 8)) {
    Vectors& v = all[name];
    v.blocks.resize(sizes[0]);
    v.values.resize(sizes[1]);
    file.read(reinterpret_cast<char*>(v.blocks.data()), sizes[0]);
    file.read(reinterpret_cast<char*>(v.values.data()), sizes[1] * 4);
    std::memset(name, 0, sizeof name);
  }
  return all;
}

// A matrix in a file's format: random codes, scales of a sensible size.
struct FileMatrix {
  Bytes data;
  DType dtype;
  int64_t rows, cols;
  MatrixSource source() const { return {data.data(), dtype, rows, cols, {}}; }
};
FileMatrix random_matrix(DType dtype, int64_t rows, int64_t cols, uint64_t seed) {
  Rng rng(seed);
  const DTypeInfo& info = dtype_info(dtype);
  FileMatrix m{Bytes(static_cast<size_t>(rows * dtype_bytes(dtype, cols))), dtype, rows, cols};
  if (!info.quantized) {
    std::vector<float> values(static_cast<size_t>(rows * cols));
    for (float& v : values) v = 0.05f * rng.normal();
    quantize(dtype, values.data(), rows * cols, m.data.data());
    return m;
  }
  for (std::byte& b : m.data) b = static_cast<std::byte>(rng.next());
  const auto put = [&](int64_t block, int64_t at, float value) {
    const uint16_t bits = f32_to_f16(value);
    std::memcpy(m.data.data() + block * info.block_bytes + at, &bits, 2);
  };
  const bool k_quant = info.block_elements == 256;
  for (int64_t b = 0; b < static_cast<int64_t>(m.data.size()) / info.block_bytes; ++b) {
    const auto scale = static_cast<float>((k_quant ? 2e-4 : 5e-3) * (0.5 + rng.unit()));
    put(b, dtype == DType::q6_k ? 208 : 0, dtype == DType::q4_0 ? -scale : scale);
    const bool minimum = dtype == DType::q4_1 || dtype == DType::q5_1;
    if (minimum) put(b, 2, -8 * scale);
    if (dtype == DType::q4_k || dtype == DType::q5_k) put(b, 2, 5 * scale);
  }
  return m;
}

std::vector<float> random_rows(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) v = rng.normal();
  return x;
}

struct Runner {
  explicit Runner(int threads) : pool(threads), ctx{pool, scratch} {}
  ThreadPool pool;
  backend::Arena scratch;
  backend::Context ctx;
  backend::WeightMemory memory;

  PackedMatrix pack_all(const std::vector<MatrixSource>& sources, PackOptions options = {}) {
    options.memory = &memory;
    auto packed = pack(pool, sources, options);
    EXPECT_TRUE(packed) << packed.error().message;
    return std::move(*packed);
  }
  PackedMatrix pack_one(const FileMatrix& m, const PackOptions& options = {}) {
    return pack_all({m.source()}, options);
  }
  // y [tokens, rows] with NaN around and inside before the call; checks that the rest stays.
  std::vector<float> multiply(const PackedMatrix& w, const float* x, int64_t tokens,
                              bool reference = false, int64_t x_stride = 0) {
    return multiply(reference ? ref::matmul : cpu::matmul, w, x, tokens, x_stride);
  }
  std::vector<float> multiply(void (*kernel)(backend::Context&, const MatmulArgs&),
                              const PackedMatrix& w, const float* x, int64_t tokens,
                              int64_t x_stride = 0) {
    const int64_t pad = 5;
    const int64_t stride = w.rows() + pad;
    std::vector<float> y(static_cast<size_t>((tokens + 2) * stride), NAN);
    const MatmulArgs args{.x = x,
                          .x_stride = x_stride ? x_stride : w.cols(),
                          .tokens = tokens,
                          .weights = &w,
                          .y = y.data() + stride,
                          .y_stride = stride};
    kernel(ctx, args);
    std::vector<float> out;
    for (int64_t t = 0; t < tokens + 2; ++t) {
      const float* row = y.data() + t * stride;
      const bool inside = t >= 1 && t <= tokens;
      for (int64_t r = 0; r < stride; ++r) {
        EXPECT_EQ(std::isnan(row[r]), !inside || r >= w.rows())
            << "token " << t - 1 << " row " << r;
        if (inside && r < w.rows()) out.push_back(row[r]);
      }
    }
    return out;
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<double> exact(const PackedMatrix& w, const std::vector<float>& x, int64_t tokens) {
  std::vector<double> y;
  std::vector<float> row(static_cast<size_t>(w.cols()));
  y.resize(static_cast<size_t>(tokens * w.rows()));
  for (int64_t r = 0; r < w.rows(); ++r) {
    w.dequantize_row(r, row.data());
    for (int64_t t = 0; t < tokens; ++t) {
      double total = 0;
      for (int64_t k = 0; k < w.cols(); ++k)
        total += static_cast<double>(x[t * w.cols() + k]) * row[k];
      y[t * w.rows() + r] = total;
    }
  }
  return y;
}

TEST(Quant, ValuesAreThoseOfTheGgufPackage) {
  const auto vectors = gguf_vectors();
  for (const DType type : kBlockTypes) {
    const auto& info = dtype_info(type);
    SCOPED_TRACE(std::string(info.name));
    ASSERT_TRUE(vectors.contains(std::string(info.name)));
    const Vectors& v = vectors.at(std::string(info.name));
    ASSERT_EQ(v.blocks.size() / info.block_bytes * info.block_elements, v.values.size());
    std::vector<float> out(v.values.size(), NAN);
    dequantize(type, v.blocks.data(), static_cast<int64_t>(out.size()), out.data());
    EXPECT_TRUE(same_bits(out, v.values));
  }
}

TEST(Quant, RoundTripsWithinHalfAStep) {
  std::vector<float> x = random_rows(256, 3);
  std::fill(x.begin() + 32, x.begin() + 64, 0.0f);
  std::vector<float> back(x.size());
  Bytes bytes(1024);
  const auto check = [&](DType type, float steps) {
    quantize(type, x.data(), 256, bytes.data());
    dequantize(type, bytes.data(), 256, back.data());
    for (size_t i = 0; i < x.size(); ++i) {
      float largest = 0;
      for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j)
        largest = std::max(largest, std::abs(x[j]));
      EXPECT_LE(std::abs(back[i] - x[i]), largest * steps) << dtype_info(type).name << " " << i;
    }
  };
  check(DType::f32, 0);
  check(DType::f16, 1.0f / 2048);
  check(DType::bf16, 1.0f / 256);
  check(DType::q8_0, 0.505f / 127);
  check(DType::q4_0, 1.01f / 8);  // the sign opposite to the largest loses one step
}

TEST(Pack, RowsKeepTheirValues) {
  Runner run(2);
  for (const DType type : kAllTypes) {
    SCOPED_TRACE(std::string(dtype_info(type).name));
    const int64_t cols = dtype_info(type).quantized ? 768 : 51;
    const FileMatrix m = random_matrix(type, 37, cols, 5);
    MatrixSource source = m.source();
    for (int i = 0; i < 37; ++i) source.row_order.push_back((i * 8) % 37);
    for (const bool full : {false, true}) {
      const PackedMatrix packed = run.pack_all({source}, {.full_precision = full});
      EXPECT_EQ(packed.rows(), 37);
      EXPECT_EQ(packed.cols(), cols);
      std::vector<float> want(cols), got(cols, NAN);
      for (int64_t r = 0; r < 37; ++r) {
        dequantize(type, m.data.data() + source.row_order[r] * dtype_bytes(type, cols), cols,
                   want.data());
        packed.dequantize_row(r, got.data());
        EXPECT_TRUE(same_bits(got, want)) << "row " << r;
      }
    }
  }
}

TEST(Pack, MemoryStaysCloseToTheFile) {
  Runner run(1);
  for (const DType type : kAllTypes) {
    const FileMatrix m = random_matrix(type, 64, 1024, 6);
    const PackedMatrix packed = run.pack_one(m);
    EXPECT_LE(packed.bytes(), 1.04 * static_cast<double>(m.data.size())) << dtype_info(type).name;
  }
}

TEST(Pack, RefusesWhatItCannotMultiply) {
  ThreadPool pool(1);
  const FileMatrix a = random_matrix(DType::q4_0, 16, 64, 1);
  const FileMatrix b = random_matrix(DType::q4_0, 16, 32, 1);
  backend::WeightMemory memory;
  const auto message = [&](std::vector<MatrixSource> sources, PackOptions options = {}) {
    options.memory = &memory;
    const auto packed = pack(pool, sources, options);
    return packed ? std::string() : packed.error().message;
  };
  EXPECT_EQ(message({a.source()}), "");
  EXPECT_NE(message({}), "");
  EXPECT_NE(message({a.source(), b.source()}).find("64 and 32"), std::string::npos);
  MatrixSource odd = a.source();
  odd.cols = 48;
  EXPECT_NE(message({odd}).find("48 columns of q4_0"), std::string::npos);
  MatrixSource order = a.source();
  order.row_order = {0, 1};
  EXPECT_NE(message({order}).find("order of 2 rows"), std::string::npos);
  order.row_order.assign(16, 16);
  EXPECT_NE(message({order}).find("row 16"), std::string::npos);
  MatrixSource ids = a.source();
  ids.dtype = DType::i32;
  EXPECT_NE(message({ids}).find("i32"), std::string::npos);
  EXPECT_NE(message({a.source()}, {.quantize = DType::q6_k}).find("q6_k"), std::string::npos);
}

TEST(Pack, RequantisesFloats) {
  Runner run(1);
  const FileMatrix m = random_matrix(DType::bf16, 20, 64, 9);
  std::vector<float> values(64), want(64), got(64);
  Bytes bytes(128);
  for (const DType type : {DType::q8_0, DType::q4_0}) {
    const PackedMatrix packed = run.pack_one(m, {.quantize = type});
    dequantize(DType::bf16, m.data.data() + 19 * 128, 64, values.data());
    quantize(type, values.data(), 64, bytes.data());
    dequantize(type, bytes.data(), 64, want.data());
    packed.dequantize_row(19, got.data());
    EXPECT_TRUE(same_bits(got, want));
  }
  // Columns that are no multiple of a block stay as they are.
  const FileMatrix odd = random_matrix(DType::bf16, 20, 40, 9);
  EXPECT_EQ(run.pack_one(odd, {.quantize = DType::q8_0}).bytes(), 32 * 40 * 2);
}

TEST(Matmul, ReferenceIsTheExactSum) {
  Runner run(2);
  for (const DType type : {DType::f32, DType::q4_k}) {
    const PackedMatrix w = run.pack_one(random_matrix(type, 19, 256, 2));
    const auto x = random_rows(3 * 256, 4);
    const auto y = run.multiply(w, x.data(), 3, true);
    const auto want = exact(w, x, 3);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], static_cast<float>(want[i]));
  }
}

TEST(Matmul, ErrorWithinTwiceTheNaiveOne) {
  Runner run(2);
  for (const std::string_view target : backend::supported_targets()) {
    ASSERT_TRUE(backend::use_target(target));
    for (const DType type : kAllTypes) {
      for (const bool full : {false, true}) {
        const int64_t cols = 768, tokens = 9;
        const PackedMatrix w =
            run.pack_one(random_matrix(type, 33, cols, 11), {.full_precision = full});
        const auto x = random_rows(tokens * cols, 12);
        const auto want = run.multiply(ref::matmul, w, x.data(), tokens);
        const bool int8 = dtype_info(type).quantized && !full;
        const double budget = error_budget(run.multiply(naive::matmul, w, x.data(), tokens), want);
        const double error = relative_error(run.multiply(w, x.data(), tokens), want);
        EXPECT_LE(error, budget) << target << " " << dtype_info(type).name << " full " << full;
        EXPECT_LE(error, int8 ? 2e-2 : 1e-6);
      }
    }
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

// One value or two a thousand times as large as the others of their block: with one scale for all
// of them the others would be zeros.
TEST(Matmul, ValuesThatStandOutLeaveTheOthersTheirPrecision) {
  Runner run(2);
  const int64_t cols = 512, tokens = 17, rows = 33;
  auto others = random_rows(tokens * cols, 51);
  for (size_t i = 0; i < others.size(); i += 16) others[i] = 0;
  auto x = others;
  const float large[] = {2500, -1200, 900, -900, 0, 1500};
  for (size_t i = 0; i < x.size(); i += 16) x[i] = large[i / 16 % 6];
  for (const std::string_view target : backend::supported_targets()) {
    ASSERT_TRUE(backend::use_target(target));
    for (const DType type : kAllTypes) {
      const PackedMatrix w = run.pack_one(random_matrix(type, rows, cols, 52));
      const auto want = exact(w, x, tokens);
      double squares = 0;
      for (const double y : exact(w, others, tokens)) squares += y * y;
      const double scale = std::sqrt(squares / static_cast<double>(want.size()));
      for (const int64_t chunk : {int64_t{1}, tokens}) {
        for (int64_t t = 0; t < tokens; t += chunk) {
          const auto y = run.multiply(w, x.data() + t * cols, chunk);
          for (size_t i = 0; i < y.size(); ++i)
            ASSERT_NEAR(y[i], want[static_cast<size_t>(t * rows) + i], 0.05 * scale)
                << target << " " << dtype_info(type).name << " chunk " << chunk << " at " << i;
        }
      }
    }
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

// One row's bits: alone, in any batch, on any number of threads, on any target. Every number of
// rows that a kernel of its own may take, and more.
TEST(Matmul, BitsDependOnTheRowAlone) {
  constexpr int64_t kTokens = 64;
  Runner first(1);
  for (const DType type : kAllTypes) {
    SCOPED_TRACE(std::string(dtype_info(type).name));
    // Three stretches of activations, the last one short; tiles that no panel divides evenly.
    const int64_t cols = dtype_info(type).block_elements == 256 ? 1280 : 1120;
    const PackedMatrix w = first.pack_one(random_matrix(type, 83, cols, 21));
    auto x = random_rows(kTokens * cols, 22);
    for (size_t i = 7; i < x.size(); i += 301) x[i] *= 40.0f;
    ASSERT_TRUE(backend::use_target("auto"));
    std::vector<float> want;
    for (int64_t t = 0; t < kTokens; ++t) {
      const auto row = first.multiply(w, x.data() + t * cols, 1);
      want.insert(want.end(), row.begin(), row.end());
    }
    for (const std::string_view target : backend::supported_targets()) {
      ASSERT_TRUE(backend::use_target(target));
      SCOPED_TRACE(std::string(target));
      const bool slow = target == "scalar";
      for (const int threads : {1, 2, 3, 4}) {
        if (slow && threads > 2) continue;
        Runner run(threads);
        for (const int64_t chunk :
             {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 33, 64}) {
          if (slow && chunk != 3 && chunk != 64) continue;
          std::vector<float> y;
          for (int64_t t = 0; t < kTokens; t += chunk) {
            const int64_t count = std::min(chunk, kTokens - t);
            const auto part = run.multiply(w, x.data() + t * cols, count);
            y.insert(y.end(), part.begin(), part.end());
          }
          EXPECT_TRUE(same_bits(y, want)) << "threads " << threads << " chunk " << chunk;
        }
      }
    }
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

// More tokens than pass one panel, with values that stand out of their blocks.
TEST(Matmul, BitsOfLongPromptsDependOnTheRowAlone) {
  constexpr int64_t kTokens = 523;
  constexpr int64_t kCols = 768;
  Runner run(2);
  for (const DType type : {DType::q4_0, DType::q4_k, DType::q6_k, DType::q8_0}) {
    SCOPED_TRACE(std::string(dtype_info(type).name));
    const PackedMatrix w = run.pack_one(random_matrix(type, 70, kCols, 31));
    auto x = random_rows(kTokens * kCols, 32);
    for (size_t i = 5; i < x.size(); i += 97) x[i] *= 30.0f;
    for (const std::string_view target : backend::supported_targets()) {
      if (target == "scalar") continue;
      ASSERT_TRUE(backend::use_target(target));
      SCOPED_TRACE(std::string(target));
      const auto whole = run.multiply(w, x.data(), kTokens);
      std::vector<float> parts;
      for (int64_t t = 0; t < kTokens; t += 3) {
        const auto part = run.multiply(w, x.data() + t * kCols, std::min<int64_t>(3, kTokens - t));
        parts.insert(parts.end(), part.begin(), part.end());
      }
      EXPECT_TRUE(same_bits(parts, whole));
    }
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

// Four tokens are quantised at once where the target can: blocks of every kind beside each other
// (long tails, values that stand out, two alike, tiny, zeros, not finite) keep what they are alone.
TEST(Matmul, QuantisedBlocksDependOnThemselvesAlone) {
  constexpr int64_t kTokens = 19;
  constexpr int64_t kCols = 1024;
  Runner run(1);
  const auto a = random_rows(kTokens * kCols, 61), b = random_rows(kTokens * kCols, 62);
  std::vector<float> x(a.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t block = i / 32;
    x[i] = a[i] * b[i] * b[i];
    if (block % 7 == 1) x[i] *= 1e-33f;
    if (block % 7 == 2) x[i] *= 1e18f;
    if (block % 7 == 3 && i % 32 == block % 32) x[i] = 1000;
    if (block % 7 == 4 && i % 16 == block % 16) x[i] = i % 32 < 16 ? -500 : 500;
    if (block % 7 == 5) x[i] = i % 32 == 3 ? a[i] : 0;
    if (block % 7 == 6 && block % 5 == 0) x[i] = 0;
  }
  x[5 * kCols + 40] = NAN;
  x[6 * kCols + 900] = -INFINITY;
  for (const DType type : kBlockTypes) {
    const PackedMatrix w = run.pack_one(random_matrix(type, 48, kCols, 63));
    ASSERT_TRUE(backend::use_target("auto"));
    std::vector<float> alone(kTokens * 48);
    for (int64_t i = 0; i < kTokens; ++i)
      matmul(run.ctx, {x.data() + i * kCols, 1, kCols}, w, {alone.data() + i * 48, 1, 48});
    for (const std::string_view target : backend::supported_targets()) {
      ASSERT_TRUE(backend::use_target(target));
      std::vector<float> y(alone.size());
      matmul(run.ctx, {x.data(), kTokens, kCols}, w, {y.data(), kTokens, 48});
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_TRUE(std::memcmp(&y[i], &alone[i], 4) == 0 ||
                    (std::isnan(y[i]) && std::isnan(alone[i])))
            << target << " " << dtype_info(type).name << " token " << i / 48 << " row " << i % 48;
    }
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

TEST(Matmul, StackedFormatsEqualTheirParts) {
  Runner run(3);
  const int64_t cols = 512;
  const FileMatrix parts[] = {
      random_matrix(DType::q4_k, 40, cols, 1), random_matrix(DType::q6_k, 7, cols, 2),
      random_matrix(DType::bf16, 1, cols, 3), random_matrix(DType::q5_0, 32, cols, 4)};
  std::vector<MatrixSource> sources;
  for (const FileMatrix& m : parts) sources.push_back(m.source());
  const PackedMatrix all = run.pack_all(sources);
  ASSERT_EQ(all.rows(), 80);
  for (const int64_t tokens : {1, 5, 40}) {
    const auto x = random_rows(tokens * cols, 5);
    const auto y = run.multiply(all, x.data(), tokens);
    int64_t at = 0;
    for (const FileMatrix& m : parts) {
      const auto part = run.multiply(run.pack_one(m), x.data(), tokens);
      for (int64_t t = 0; t < tokens; ++t)
        EXPECT_EQ(std::memcmp(y.data() + t * 80 + at, part.data() + t * m.rows, m.rows * 4), 0)
            << dtype_info(m.dtype).name;
      at += m.rows;
    }
  }
}

TEST(Matmul, StridesAndAccumulate) {
  Runner run(2);
  for (const DType type : {DType::f32, DType::q4_0}) {
    const PackedMatrix w = run.pack_one(random_matrix(type, 21, 64, 8));
    auto x = random_rows(5 * 64, 9);
    std::vector<float> wide(5 * 80, NAN);
    for (int t = 0; t < 5; ++t) std::memcpy(&wide[t * 80], &x[t * 64], 64 * 4);
    const auto y = run.multiply(w, x.data(), 5);
    EXPECT_TRUE(same_bits(run.multiply(w, wide.data(), 5, false, 80), y));
    std::vector<float> sum(y.size(), 0.5f);
    cpu::matmul(run.ctx, {.x = x.data(),
                          .x_stride = 64,
                          .tokens = 5,
                          .weights = &w,
                          .y = sum.data(),
                          .y_stride = 21,
                          .accumulate = true});
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(sum[i], 0.5f + y[i]);
    std::vector<float> plain(y.size(), NAN);
    matmul(run.ctx, {x.data(), 5, 64}, w, {plain.data(), 5, 21});
    EXPECT_TRUE(same_bits(plain, y));
    run.ctx.kernels = backend::KernelSet::reference;
    std::vector<float> reference(y.size(), NAN);
    matmul(run.ctx, {x.data(), 5, 64}, w, {reference.data(), 5, 21});
    run.ctx.kernels = backend::KernelSet::cpu;
    EXPECT_TRUE(same_bits(reference, run.multiply(w, x.data(), 5, true)));
    matmul(run.ctx, {x.data(), 0, 64}, w, {nullptr, 0, 21});
  }
}

TEST(Matmul, ValuesThatAreNotFiniteShow) {
  Runner run(1);
  for (const DType type : kAllTypes) {
    const PackedMatrix w = run.pack_one(random_matrix(type, 16, 256, 1));
    for (const float bad : {NAN, INFINITY}) {
      auto x = random_rows(3 * 256, 2);
      x[256 + 70] = bad;
      for (const std::string_view target : backend::supported_targets()) {
        ASSERT_TRUE(backend::use_target(target));
        std::vector<float> y(3 * 16);
        matmul(run.ctx, {x.data(), 3, 256}, w, {y.data(), 3, 16});
        for (int i = 0; i < 48; ++i)
          EXPECT_EQ(std::isfinite(y[i]), i / 16 != 1) << dtype_info(type).name << " " << target;
      }
    }
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

// Codes and activations at their extremes: the 16-bit partial sums must not saturate.
TEST(Matmul, ExtremeCodesAreExact) {
  Runner run(1);
  for (const DType type : kBlockTypes) {
    for (const int fill : {0x00, 0xff, 0x80, 0x7f}) {
      FileMatrix m = random_matrix(type, 16, 256, 1);
      const DTypeInfo& info = dtype_info(type);
      for (size_t i = 0; i < m.data.size(); ++i) {
        const auto at = static_cast<int64_t>(i) % info.block_bytes;
        const bool half = type == DType::q6_k ? at >= 208 : at < (info.block_bytes > 100 ? 4 : 2);
        if (!half) m.data[i] = static_cast<std::byte>(fill);
      }
      if (type == DType::q4_1 || type == DType::q5_1)
        for (size_t b = 0; b < m.data.size(); b += info.block_bytes)
          m.data[b + 2] = m.data[b + 3] = std::byte{0x10};
      const PackedMatrix w = run.pack_one(m);
      // Alone and in a panel: one sign, and signs by the columns that share a 16-bit sum.
      constexpr int64_t kTokens = 18;
      std::vector<float> x(kTokens * 256);
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t t = i / 256, k = i % 256;
        const bool negative = t % 3 == 0 ? false : t % 3 == 1 ? k % 4 < 2 : k % 32 < 16;
        x[i] = negative == (t % 2 == 0) ? -1.0f : 1.0f;
      }
      const auto want = exact(w, x, kTokens);
      std::vector<double> magnitudes(16);  // of what is added up
      std::vector<float> row(256);
      for (int64_t r = 0; r < 16; ++r) {
        w.dequantize_row(r, row.data());
        for (const float value : row) magnitudes[r] += std::abs(value);
      }
      for (const std::string_view target : backend::supported_targets()) {
        ASSERT_TRUE(backend::use_target(target));
        for (const int64_t chunk : {int64_t{1}, kTokens}) {
          for (int64_t t = 0; t < kTokens; t += chunk) {
            const auto y = run.multiply(w, x.data() + t * 256, chunk);
            for (size_t i = 0; i < y.size(); ++i) {
              EXPECT_NEAR(y[i], want[t * 16 + i], 1e-5 * magnitudes[i % 16] + 1e-6)
                  << target << " " << info.name << " fill " << fill << " token " << t + i / 16;
            }
          }
        }
      }
    }
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

}  // namespace
}  // namespace heddle::ops
