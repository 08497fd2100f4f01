// Paged attention: fast against the float64 specification, and equal bits whoever asks.
#include "ops/attention/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "backend/target.h"
#include "base/rng.h"
#include "ops/attention/packed_page.h"
#include "ops/naive.h"

namespace heddle::ops {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Setting {
  std::string name;
  int64_t heads, kv_heads, key_width, value_width;
  int64_t window = 0;
  float soft_cap = 0;
  bool sinks = false;
  DType dtype = DType::bf16;
};

void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.name; }

// The pages of one sequence's two parts, poisoned with NaN until they are written.
class Pages {
 public:
  Pages(const KvShape& shape, int64_t slots) : shape_(shape), pages_((slots + 63) / 64) {
    for (const int64_t elements :
         {shape.kv_heads * shape.key_width * 64, shape.kv_heads * shape.value_width * 64}) {
      for (int64_t p = 0; p < pages_; ++p) {
        data_.emplace_back(static_cast<size_t>(dtype_bytes(shape.dtype, elements)),
                           std::byte{0xff});
      }
    }
    for (auto& page : data_) pointers_.push_back(page.data());
    packed_.resize(pointers_.size());
    for (const int64_t first : {int64_t{0}, pages_})
      groups_.push_back({.pages = pointers_.data() + first, .packed = packed_.data() + first});
  }
  Pages(const Pages&) = delete;  // groups_ points into the others
  Pages& operator=(const Pages&) = delete;
  Pages(Pages&&) = default;
  void add_views(std::vector<state::PartView>& views) const {
    static constexpr state::PartPlace kAlone;
    for (const state::GroupView& group : groups_) views.emplace_back(group, kAlone);
  }
  // As the state packs pages that are complete. Returns how many were.
  int64_t pack_before(int64_t slot) {
    int64_t count = 0;
    for (int64_t i = 0; i < 2 * pages_; ++i) {
      const auto index = static_cast<size_t>(i);
      if (i % pages_ >= slot / 64 || pointers_[index] == nullptr || packed_[index] != 0) continue;
      const int64_t head = state::PackedHead::bytes(1);
      std::vector<std::byte> packed(static_cast<size_t>(head) + data_[index].size(),
                                    std::byte{0xff});
      state::PackedHead(packed.data()).set(0, head, true);
      if (!pack_page(data_[index].data(), std::ssize(data_[index]), packed.data() + head)) continue;
      data_[index] = std::move(packed);
      pointers_[index] = data_[index].data();
      packed_[index] = 1;
      ++count;
    }
    return count;
  }
  // As the state drops pages that no window reaches.
  void drop_before(int64_t slot) {
    for (int64_t p = 0; p < slot / 64; ++p)
      pointers_[static_cast<size_t>(p)] = pointers_[static_cast<size_t>(pages_ + p)] = nullptr;
  }

 private:
  KvShape shape_;
  int64_t pages_;
  std::vector<std::vector<std::byte>> data_;
  std::vector<std::byte*> pointers_;
  std::vector<uint8_t> packed_;
  std::vector<state::GroupView> groups_;  // of keys, of values
};

struct Inputs {
  std::vector<float> q, k, v;  // [T, ...]
};

class Rig {
 public:
  Rig(const Setting& setting, int threads = 2, float spread = 1)
      : s(setting), pool(threads), ctx{pool, scratch}, spread_(spread) {
    for (int64_t h = 0; h < s.heads; ++h) sinks_.push_back(0.3f * static_cast<float>(h) - 0.5f);
  }
  KvShape shape() const { return {s.kv_heads, s.key_width, s.value_width, s.dtype}; }

  // Rows of (token id, position); a pure function of both.
  Inputs inputs(const std::vector<int32_t>& ids, const std::vector<int32_t>& positions) const {
    Inputs in;
    for (size_t i = 0; i < ids.size(); ++i) {
      Rng rng(mix64(static_cast<uint64_t>(ids[i]) << 32 ^ static_cast<uint64_t>(positions[i])));
      for (int64_t n = 0; n < s.heads * s.key_width; ++n) in.q.push_back(rng.normal() * spread_);
      for (int64_t n = 0; n < s.kv_heads * s.key_width; ++n) in.k.push_back(rng.normal() * spread_);
      for (int64_t n = 0; n < s.kv_heads * s.value_width; ++n) in.v.push_back(rng.normal());
    }
    return in;
  }

  // Stores and attends the rows of some segments. Returns [T, H V].
  std::vector<float> run(const std::vector<state::Segment>& segments,
                         const std::vector<const Pages*>& pages, const std::vector<int32_t>& ids,
                         bool reference = false) {
    std::vector<int32_t> positions(ids.size());
    for (const state::Segment& segment : segments) {
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t parent = segment.parent(i);
        positions[static_cast<size_t>(segment.row + i)] =
            parent < 0 ? static_cast<int32_t>(segment.start)
                       : positions[static_cast<size_t>(segment.row + parent)] + 1;
      }
    }
    const Inputs in = inputs(ids, positions);
    std::vector<state::PartView> views;
    for (const Pages* p : pages) p->add_views(views);
    const state::StateView state{views, 2};
    const state::BatchView batch{static_cast<int64_t>(ids.size()), segments, positions};
    const KvView kv{shape(), &batch, &state, 0, 1};
    const StoreKvArgs store{kv, in.k.data(), s.kv_heads * s.key_width, in.v.data(),
                            s.kv_heads * s.value_width};
    const int64_t width = s.heads * s.value_width;
    const int64_t stride = width + 5;
    std::vector<float> out(ids.size() * static_cast<size_t>(stride), kNan);
    AttentionArgs args;
    args.kv = kv;
    args.heads = s.heads;
    args.scale = 1 / std::sqrt(static_cast<float>(s.key_width));
    args.soft_cap = s.soft_cap;
    args.window = s.window;
    args.sinks = s.sinks ? sinks_.data() : nullptr;
    args.q = in.q.data();
    args.q_stride = s.heads * s.key_width;
    args.out = out.data();
    args.out_stride = stride;
    ctx.kernels = reference ? backend::KernelSet::reference : backend::KernelSet::cpu;
    store_kv(ctx, store);
    kernel(ctx, args);
    std::vector<float> dense;
    for (size_t i = 0; i < out.size(); ++i) {
      const bool inside = static_cast<int64_t>(i) % stride < width;
      EXPECT_NE(inside, std::isnan(out[i])) << "at " << i;
      if (inside) dense.push_back(out[i]);
    }
    return dense;
  }

  std::vector<float> feed(Pages& pages, const std::vector<int32_t>& ids, int64_t chunk,
                          int64_t start = 0) {
    std::vector<float> all;
    const auto total = static_cast<int64_t>(ids.size());
    for (int64_t at = 0; at < total; at += chunk) {
      const int64_t n = std::min(chunk, total - at);
      if (s.window > 0) pages.drop_before(std::max<int64_t>(0, start + at - s.window + 1));
      const auto rows =
          run({{0, start + at, n, 0, {}}}, {&pages}, {ids.begin() + at, ids.begin() + at + n});
      all.insert(all.end(), rows.begin(), rows.end());
    }
    return all;
  }

  Setting s;
  void (*kernel)(backend::Context&, const AttentionArgs&) = attention;
  ThreadPool pool;
  backend::Arena scratch;
  backend::Context ctx;

 private:
  float spread_;
  std::vector<float> sinks_;
};

std::vector<int32_t> ids_of(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.below(100000));
  return ids;
}

::testing::AssertionResult same_bits(const std::vector<float>& a, const std::vector<float>& b,
                                     int64_t width) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " values against " << b.size();
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], 4) != 0)
      return ::testing::AssertionFailure()
             << "row " << static_cast<int64_t>(i) / width << ": " << a[i] << " against " << b[i];
  return ::testing::AssertionSuccess();
}

const Setting kSettings[] = {
    {"gqa", 6, 2, 16, 16},
    {"mha_f32", 2, 2, 8, 24, 0, 0, false, DType::f32},
    {"odd", 7, 1, 10, 13},
    {"wide", 4, 1, 64, 80},
    {"banded", 8, 4, 32, 128},
    {"banded_window_f32", 4, 2, 24, 192, 70, 0, false, DType::f32},
    {"window_small", 4, 2, 16, 16, 5},
    {"window_pages", 3, 1, 16, 32, 100},
    {"capped_sinks", 4, 2, 12, 20, 0, 5, true},
    {"many_heads", 26, 2, 8, 8, 70, 0, true, DType::f32},
};

class Attention : public ::testing::TestWithParam<std::tuple<Setting, std::string>> {
 protected:
  void SetUp() override {
    before_ = std::string(backend::active_target());
    ASSERT_TRUE(backend::use_target(std::get<1>(GetParam())).has_value());
  }
  void TearDown() override { ASSERT_TRUE(backend::use_target(before_).has_value()); }
  const Setting& setting() const { return std::get<0>(GetParam()); }
  bool scalar() const { return std::get<1>(GetParam()) == "scalar"; }
  int64_t width() const { return setting().heads * setting().value_width; }

 private:
  std::string before_;
};

TEST_P(Attention, MatchesTheSpecification) {
  for (const float spread : {1.0f, 3.0f}) {
    Rig rig(setting(), 2, spread);
    const auto ids = ids_of(150, 1);
    Pages fast(rig.shape(), 200);
    Pages slow(rig.shape(), 200);
    const auto got = rig.run({{0, 0, 150, 0, {}}}, {&fast}, ids);
    const auto expected = rig.run({{0, 0, 150, 0, {}}}, {&slow}, ids, true);
    rig.kernel = naive::attention;
    const auto plain = rig.run({{0, 0, 150, 0, {}}}, {&fast}, ids);
    EXPECT_LE(relative_error(got, expected), error_budget(plain, expected)) << "spread " << spread;
  }
}

TEST_P(Attention, AnyChunkingGivesEqualBits) {
  Rig rig(setting());
  // Past the first split of 512 keys, so that merging is exercised (the scalar target is slow).
  const int64_t length = scalar() ? 150 : 700;
  const auto ids = ids_of(length, 2);
  Pages whole(rig.shape(), length);
  const auto expected = rig.feed(whole, ids, length);
  for (const int64_t chunk : {1, 7, 63, 64, 65, 300}) {
    if (scalar() && chunk != 7 && chunk != 65) continue;
    Pages pages(rig.shape(), length);
    EXPECT_TRUE(same_bits(rig.feed(pages, ids, chunk), expected, width())) << "chunk " << chunk;
  }
}

TEST_P(Attention, BatchAndThreadsDoNotMatter) {
  const int64_t past = scalar() ? 70 : 580;
  const auto a = ids_of(past + 5, 3);
  const auto b = ids_of(80, 4);
  Rig alone(setting(), 1);
  Pages pa(alone.shape(), 600);
  Pages pb(alone.shape(), 100);
  const auto expected_a = alone.feed(pa, a, past + 5);
  const auto expected_b = alone.feed(pb, b, 80);
  for (const int threads : {1, 2, 3}) {
    Rig rig(setting(), threads);
    Pages qa(rig.shape(), 600);
    Pages qb(rig.shape(), 100);
    rig.feed(qa, {a.begin(), a.begin() + past}, past);
    rig.feed(qb, {b.begin(), b.begin() + 20}, 20);
    // Five rows of one sequence past a split, sixty of another.
    std::vector<int32_t> ids(b.begin() + 20, b.end());
    ids.insert(ids.end(), a.begin() + past, a.end());
    const auto rows = rig.run({{60, past, 5, 0, {}}, {0, 20, 60, 0, {}}}, {&qa, &qb}, ids);
    const auto w = static_cast<int64_t>(width());
    const std::vector<float> got_b(rows.begin(), rows.begin() + 60 * w);
    const std::vector<float> got_a(rows.begin() + 60 * w, rows.end());
    EXPECT_TRUE(same_bits(got_b, {expected_b.begin() + 20 * w, expected_b.end()}, w)) << threads;
    EXPECT_TRUE(same_bits(got_a, {expected_a.begin() + past * w, expected_a.end()}, w)) << threads;
  }
}

// Drafts 0..5 after two committed rows: 0 - 2 - 4 and 1 - 3 - 5 interleaved, so that no branch but
// the first row of one lies in consecutive slots; near a page boundary and past a split.
TEST_P(Attention, TreeDraftsEqualEachPathAlone) {
  Rig rig(setting());
  const std::vector<int32_t> parents = {1, 1, 2, 3, 4, 5};
  for (const int64_t at : {3, 60, 508, 513}) {
    if (scalar() && at != 60) continue;
    const auto past = ids_of(at, 5);
    std::vector<int32_t> step = ids_of(8, 6);
    Pages tree(rig.shape(), at + 8);
    if (at > 0) rig.feed(tree, past, at);
    const auto rows = rig.run({{0, at, 8, 6, parents}}, {&tree}, step);
    for (const int64_t branch : {0, 1}) {
      std::vector<int32_t> path = {0, 1};
      for (int32_t n = 0; n < 3; ++n) path.push_back(static_cast<int32_t>(2 + branch) + 2 * n);
      std::vector<int32_t> alone;
      std::vector<float> from_tree;
      for (const int32_t r : path) {
        alone.push_back(step[static_cast<size_t>(r)]);
        from_tree.insert(from_tree.end(), rows.begin() + r * width(),
                         rows.begin() + (r + 1) * width());
      }
      Pages chain(rig.shape(), at + 8);
      rig.feed(chain, past, at);
      EXPECT_TRUE(same_bits(from_tree, rig.feed(chain, alone, 1, at), width()))
          << "branch " << branch << " at " << at;
    }
  }
}

TEST_P(Attention, ReferenceFollowsTheTreeToo) {
  Rig rig(setting());
  const std::vector<int32_t> parents = {1, 1, 2, 3, 4, 5};
  const auto past = ids_of(61, 7);
  const auto step = ids_of(8, 8);
  Pages fast(rig.shape(), 80);
  Pages slow(rig.shape(), 80);
  rig.feed(fast, past, 61);
  rig.run({{0, 0, 61, 0, {}}}, {&slow}, past, true);
  const auto got = rig.run({{0, 61, 8, 6, parents}}, {&fast}, step);
  const auto expected = rig.run({{0, 61, 8, 6, parents}}, {&slow}, step, true);
  EXPECT_LE(relative_error(got, expected), 1e-5);
}

TEST_P(Attention, ExtremeLogitsStayFinite) {
  Rig rig(setting(), 2, 40);
  const auto ids = ids_of(140, 9);
  Pages a(rig.shape(), 140);
  Pages b(rig.shape(), 140);
  const auto whole = rig.feed(a, ids, 140);
  for (const float x : whole) ASSERT_TRUE(std::isfinite(x));
  EXPECT_TRUE(same_bits(rig.feed(b, ids, 11), whole, width()));
}

std::vector<std::string> targets() {
  std::vector<std::string> all;
  for (const std::string_view target : backend::supported_targets()) all.emplace_back(target);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Ops, Attention,
                         ::testing::Combine(::testing::ValuesIn(kSettings),
                                            ::testing::ValuesIn(targets())),
                         [](const auto& param_info) {
                           return std::get<0>(param_info.param).name + "_" +
                                  std::get<1>(param_info.param);
                         });

TEST(AttentionTargets, EverySimdTargetGivesEqualBits) {
  const std::string before(backend::active_target());
  for (const Setting& setting : kSettings) {
    std::vector<float> first;
    for (const std::string_view target : backend::supported_targets()) {
      ASSERT_TRUE(backend::use_target(target).has_value());
      Rig rig(setting);
      Pages pages(rig.shape(), 80);
      const auto rows = rig.feed(pages, ids_of(80, 11), 33);
      if (first.empty()) first = rows;
      EXPECT_TRUE(same_bits(rows, first, setting.heads * setting.value_width))
          << setting.name << " " << target;
    }
  }
  ASSERT_TRUE(backend::use_target(before).has_value());
}

// One token, a few (decode, drafts in a tree) and many rows (prefill), past a split, over pages of
// which most are packed.
void expect_packed_pages_change_nothing(Setting s) {
  s.key_width = (s.key_width + 63) / 64 * 64;
  s.value_width = (s.value_width + 63) / 64 * 64;
  Rig rig(s);
  const int64_t past = 580;
  const auto ids = ids_of(past, 12);
  const std::vector<int32_t> parents = {1, 1, 2, 3, 4, 5};
  const std::vector<state::Segment> steps = {
      {0, past, 1, 0, {}}, {0, past, 5, 0, {}}, {0, past, 8, 6, parents}, {0, past, 90, 0, {}}};
  for (const state::Segment& step : steps) {
    const auto rows = ids_of(step.length, 13);
    Pages plain(rig.shape(), past + step.length);
    Pages packed(rig.shape(), past + step.length);
    for (Pages* pages : {&plain, &packed}) {
      rig.feed(*pages, ids, past);
      if (s.window > 0) pages->drop_before(past - s.window + 1);
    }
    EXPECT_GT(packed.pack_before(past), 0);
    const auto expected = rig.run({step}, {&plain}, rows);
    EXPECT_TRUE(same_bits(rig.run({step}, {&packed}, rows), expected, s.heads * s.value_width))
        << step.length << " rows";
    if (step.length != 5) continue;
    EXPECT_EQ(rig.run({step}, {&packed}, rows, true), rig.run({step}, {&plain}, rows, true));
  }
}

TEST(AttentionTargets, PackedPagesGiveEqualBits) {
  const std::string before(backend::active_target());
  for (const std::string_view target : backend::supported_targets()) {
    if (target == "scalar") continue;  // slow
    ASSERT_TRUE(backend::use_target(target).has_value());
    for (const Setting& setting : kSettings) {
      if (setting.dtype != DType::bf16 || (setting.window > 0 && setting.window < 64)) continue;
      SCOPED_TRACE(setting.name + " " + std::string(target));
      expect_packed_pages_change_nothing(setting);
    }
  }
  ASSERT_TRUE(backend::use_target(before).has_value());
}

TEST(StoreKv, BothKernelSetsWriteTheSameBytesAndNothingElse) {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    Rig rig({"store", 3, 3, 10, 21, 0, 0, false, dtype});
    for (const int64_t n : {1, 15, 16, 33, 70}) {
      const auto ids = ids_of(n, 10);
      Pages fast(rig.shape(), 130);
      Pages slow(rig.shape(), 130);
      std::vector<state::PartView> a;
      std::vector<state::PartView> b;
      fast.add_views(a);
      slow.add_views(b);
      std::vector<int32_t> positions;
      for (int64_t i = 0; i < n; ++i) positions.push_back(static_cast<int32_t>(50 + i));
      const Inputs in = rig.inputs(ids, positions);
      const state::Segment segment{0, 50, n, n, {}};
      const state::BatchView batch{n, {&segment, 1}, positions};
      const auto store = [&](auto kernel, const std::vector<state::PartView>& views) {
        const state::StateView state{views, 2};
        const KvView kv{rig.shape(), &batch, &state, 0, 1};
        kernel(rig.ctx, StoreKvArgs{kv, in.k.data(), 30, in.v.data(), 63});
      };
      store(cpu::store_kv, a);
      store(ref::store_kv, b);
      for (int64_t part = 0; part < 2; ++part) {
        const int64_t elements = part == 0 ? 3 * 10 * 64 : 3 * 64 * 21;
        for (int64_t page = 0; page < 3; ++page)
          EXPECT_EQ(0, std::memcmp(a[static_cast<size_t>(part)].page(page),
                                   b[static_cast<size_t>(part)].page(page),
                                   static_cast<size_t>(dtype_bytes(dtype, elements))))
              << "part " << part << " page " << page << " rows " << n;
      }
    }
  }
}

}  // namespace
}  // namespace heddle::ops
