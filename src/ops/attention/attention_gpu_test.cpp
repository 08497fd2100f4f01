// Attention on a GPU against the float64 specification, and equal bits for a row however the
// prompt was cut and whoever else is in the batch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "ops/attention/attention_cuda.h"
#include "ops/naive.h"
#include "test/support/gpu.h"

namespace heddle::ops {
namespace {

struct Setting {
  const char* name;
  int64_t heads, kv_heads, width;
  int64_t window = 0;
  float soft_cap = 0;
  bool sinks = false;
};
void PrintTo(const Setting& s, std::ostream* out) { *out << s.name; }

class AttentionGpu : public test::Gpu, public ::testing::WithParamInterface<Setting> {
 protected:
  static constexpr int64_t kLength = 1200;
  static constexpr int64_t kPages = (kLength + 63) / 64;

  void SetUp() override {
    test::Gpu::SetUp();
    if (IsSkipped()) return;
    Rng rng(3);
    const auto fill = [&](std::vector<float>& values, int64_t count, float scale) {
      values.resize(static_cast<size_t>(count));
      for (float& v : values) v = scale * rng.normal();
    };
    fill(q_, kLength * s_.heads * s_.width, 1.5f);
    fill(k_, kLength * s_.kv_heads * s_.width, 1.5f);
    fill(v_, kLength * s_.kv_heads * s_.width, 1);
    fill(sinks_, s_.heads, 1);
  }

  int64_t page_bytes() const { return shape_.key_part(0).page_bytes(); }
  AttentionArgs host_args(const KvView& kv, const float* q, float* out) const {
    AttentionArgs args;
    args.kv = kv;
    args.heads = s_.heads;
    args.scale = 1 / std::sqrt(static_cast<float>(s_.width));
    args.soft_cap = s_.soft_cap;
    args.window = s_.window;
    args.sinks = s_.sinks ? sinks_.data() : nullptr;
    args.q = q, args.q_stride = s_.heads * s_.width;
    args.out = out, args.out_stride = s_.heads * s_.width;
    return args;
  }

  // The first and the last kSome rows on the CPU: the specification, and the plain loop with q in
  // bf16.
  static constexpr int64_t kSome = 100;
  void on_host(std::vector<float>& exact, std::vector<float>& naive) {
    std::vector<std::byte> blocks(static_cast<size_t>(2 * kPages * page_bytes()), std::byte{0xff});
    std::vector<std::byte*> pages;
    for (int64_t p = 0; p < 2 * kPages; ++p) pages.push_back(blocks.data() + p * page_bytes());
    const std::vector<uint8_t> packed(pages.size());
    const state::GroupView groups[] = {{.pages = pages.data(), .packed = packed.data()},
                                       {.pages = pages.data() + kPages, .packed = packed.data()}};
    const state::PartPlace place;
    const std::vector<state::PartView> views = {
        {groups[0], place}, {groups[1], place}, {groups[0], place}, {groups[1], place}};
    const state::StateView state{views, 2};
    const std::vector<state::Segment> stored = {{0, 0, kLength, 0, {}}};
    const std::vector<state::Segment> read = {{0, 0, kSome, 0, {}},
                                              {kSome, kLength - kSome, kSome, 0, {}}};
    const state::BatchView store_batch{kLength, stored, {}}, batch{2 * kSome, read, {}};
    const KvView store_kv{shape_, &store_batch, &state, 0, 1}, kv{shape_, &batch, &state, 0, 1};
    ThreadPool pool(2);
    backend::Arena scratch;
    backend::Context ctx{pool, scratch};
    ref::store_kv(ctx,
                  {store_kv, k_.data(), s_.kv_heads * s_.width, v_.data(), s_.kv_heads * s_.width});
    const std::vector<float> q = ends(q_);
    exact.resize(q.size()), naive.resize(q.size());
    ref::attention(ctx, host_args(kv, q.data(), exact.data()));
    auto rounded = q;
    for (float& x : rounded) x = bf16_to_f32(f32_to_bf16(x));
    naive::attention(ctx, host_args(kv, rounded.data(), naive.data()));
  }

  // The first and the last kSome rows of [kLength, H, K].
  std::vector<float> ends(const std::vector<float>& rows) const {
    const int64_t size = kSome * s_.heads * s_.width;
    std::vector<float> some(rows.begin(), rows.begin() + size);
    some.insert(some.end(), rows.end() - size, rows.end());
    return some;
  }

  // The prompt in pieces of the given lengths, of `copies` sequences at once. All have the same
  // rows; returns those of the last one.
  std::vector<float> on_device(const std::vector<int32_t>& pieces, int64_t copies) {
    const auto blocks_bytes = static_cast<size_t>(copies * kPages * 2 * page_bytes());
    const test::GpuArray<std::byte> blocks(device(), stream(),
                                           std::vector<std::byte>(blocks_bytes, std::byte{0xff}));
    std::vector<const std::byte*> list;
    for (int64_t p = 0; p < copies * kPages; ++p)
      list.push_back(blocks.data() + p * 2 * page_bytes());
    const test::GpuArray<const std::byte*> pages(device(), stream(), list);
    const int64_t q_row = s_.heads * s_.width, kv_row = s_.kv_heads * s_.width;
    std::vector<float> all;
    int32_t start = 0;
    for (const int32_t length : pieces) {
      std::vector<cuda::PagedSegment> segments;
      std::vector<float> q, k, v;
      for (int64_t c = 0; c < copies; ++c) {
        segments.push_back({c * length, start, length, c * kPages});
        q.insert(q.end(), q_.begin() + start * q_row, q_.begin() + (start + length) * q_row);
        k.insert(k.end(), k_.begin() + start * kv_row, k_.begin() + (start + length) * kv_row);
        v.insert(v.end(), v_.begin() + start * kv_row, v_.begin() + (start + length) * kv_row);
      }
      const test::GpuArray<cuda::PagedSegment> ds(device(), stream(), segments);
      const test::GpuArray<float> dq(device(), stream(), q), dk(device(), stream(), k),
          dv(device(), stream(), v), sinks(device(), stream(), sinks_);
      const test::GpuArray<float> out(device(), stream(), test::poison(q.size()));
      cuda::PagedAttentionArgs args;
      args.kv = {shape_, pages.data(), 0, page_bytes(), ds.data(), copies, length, start + length};
      const AttentionArgs host = host_args({}, nullptr, nullptr);
      args.heads = host.heads, args.scale = host.scale, args.soft_cap = host.soft_cap;
      args.window = host.window, args.sinks = s_.sinks ? sinks.data() : nullptr;
      args.q = dq.data(), args.q_stride = q_row, args.out = out.data(), args.out_stride = q_row;
      const test::GpuArray<std::byte> workspace(
          device(), stream(), static_cast<size_t>(cuda::attention_workspace_bytes(args)));
      args.workspace = workspace.data();
      Status status = cuda::store_kv(stream(), {args.kv, dk.data(), kv_row, dv.data(), kv_row});
      EXPECT_TRUE(status) << status.error().message;
      status = cuda::attention(stream(), args);
      EXPECT_TRUE(status) << status.error().message;
      const auto got = out.read();
      all.insert(all.end(), got.end() - length * q_row, got.end());
      start += length;
    }
    return all;
  }

  const Setting s_ = GetParam();
  const KvShape shape_{s_.kv_heads, s_.width, s_.width, DType::bf16};
  std::vector<float> q_, k_, v_, sinks_;
};

TEST_P(AttentionGpu, MatchesTheSpecification) {
  std::vector<float> exact, naive;
  on_host(exact, naive);
  const auto got = ends(on_device({kLength}, 1));
  for (const float x : got) ASSERT_FALSE(std::isnan(x));
  const double error = relative_error(got, exact), budget = error_budget(naive, exact);
  EXPECT_LE(error, budget);
  RecordProperty("error_over_budget", std::to_string(error / budget));
}

TEST_P(AttentionGpu, CuttingAndCompanyChangeNoBit) {
  const auto whole = on_device({kLength}, 1);
  std::vector<int32_t> singles = {510, 1, 1, 1, 1, 62, 1, 1, 500, 60};
  while (singles.size() < 72) singles.push_back(1);
  for (const auto& pieces : {std::vector<int32_t>{1, 62, 1, 64, 100, 284, 2, 686}, singles}) {
    const auto cut = on_device(pieces, 3);
    ASSERT_EQ(cut.size(), whole.size());
    for (size_t i = 0; i < cut.size(); ++i)
      ASSERT_EQ(0, std::memcmp(&cut[i], &whole[i], 4))
          << "row " << static_cast<int64_t>(i) / (s_.heads * s_.width) << ": " << cut[i]
          << " against " << whole[i];
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, AttentionGpu,
    ::testing::Values(Setting{"heads", 3, 3, 64}, Setting{"grouped", 8, 2, 128},
                      Setting{"one_kv_head", 16, 1, 128}, Setting{"odd_group", 9, 3, 64},
                      Setting{"wide", 4, 2, 256}, Setting{"window", 8, 2, 128, 100},
                      Setting{"window_and_sinks", 8, 1, 64, 128, 0, true},
                      Setting{"soft_cap", 4, 2, 128, 0, 30},
                      Setting{"sinks", 6, 2, 128, 0, 0, true}),
    [](const auto& setting) { return std::string(setting.param.name); });

}  // namespace
}  // namespace heddle::ops
