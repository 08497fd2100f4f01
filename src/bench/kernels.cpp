#include "bench/kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "backend/target.h"
#include "base/check.h"
#include "bench/kernel_suite.h"
#include "ops/naive.h"
#include "ops/work.h"

namespace heddle::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Small values: they are read as records, gates and summaries alike.
void fill(state::SequenceState& sequence, const state::StateLayout& layout, int64_t tokens,
          Rng& rng) {
  constexpr size_t kPattern = 4099;  // prime: it falls differently into every row
  std::vector<float> pattern(kPattern);
  std::vector<uint16_t> half(kPattern);
  for (size_t i = 0; i < kPattern; ++i) {
    pattern[i] = 0.1f * (static_cast<float>(rng.unit()) - 0.5f);
    half[i] = f32_to_bf16(10 * pattern[i]);
  }
  const auto noise = [&pattern](void* data, int64_t floats) {
    auto* values = static_cast<float*>(data);
    for (int64_t i = 0; i < floats; ++i) values[i] = pattern[static_cast<size_t>(i) % kPattern];
  };
  for (int64_t p = 0; p < layout.parts(); ++p) {
    const state::StatePart& part = layout.entries[static_cast<size_t>(p)].part;
    const state::PartView view = sequence.part_view(p);
    if (part.growth == state::Growth::folded) {
      if (view.next_summary() != nullptr) noise(view.next_summary(), part.summary_elements);
      if (view.open() != nullptr) noise(view.open(), part.page_bytes() / 4);
      continue;
    }
    for (int64_t page = 0; page < (tokens + part.page_records - 1) / part.page_records; ++page) {
      std::byte* data = view.page(page);
      if (data == nullptr) continue;
      if (part.dtype == DType::f32) {
        noise(data, part.page_bytes() / 4);
        continue;
      }
      for (int64_t i = 0; i < part.page_bytes() / 2; ++i)
        reinterpret_cast<uint16_t*>(data)[i] = half[static_cast<size_t>(i) % kPattern];
    }
  }
}

}  // namespace

std::vector<float> random_values(int64_t count, uint64_t seed, float scale) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = scale * rng.normal();
  return values;
}

double error_over_budget(std::span<const float> got, std::span<const float> naive,
                         std::span<const float> exact) {
  return ops::relative_error(got, exact) / ops::error_budget(naive, exact);
}

int64_t copies_beyond_caches(double bytes) {
  constexpr double kBeyond = 192e6;
  return std::clamp<int64_t>(static_cast<int64_t>(kBeyond / std::max(bytes, 1.0)), 1, 64);
}

Sequences::Sequences(const std::vector<state::StatePart>& parts, int64_t count, int64_t depth,
                     int64_t tokens) {
  auto layout = state::StateLayout::make({parts});
  HEDDLE_CHECK(layout.has_value(), "{}", layout.error().message);
  layout_ = std::move(*layout);
  Rng rng(7);
  for (int64_t i = 0; i < count; ++i) {
    auto sequence = std::make_unique<state::SequenceState>(layout_, pool_);
    if (depth > 0) {
      sequence->begin_step(depth, 0);
      fill(*sequence, layout_, depth, rng);
      sequence->commit();
    }
    sequence->begin_step(tokens, 0);
    for (int64_t p = 0; p < layout_.parts(); ++p) views_.push_back(sequence->part_view(p));
    sequences_.push_back(std::move(sequence));
  }
  segment_.start = depth;
  segment_.length = tokens;
  positions_.resize(static_cast<size_t>(tokens));
  std::iota(positions_.begin(), positions_.end(), static_cast<int32_t>(depth));
  batch_.tokens = tokens;
  batch_.segments = {&segment_, 1};
  batch_.positions = positions_;
}

state::StateView Sequences::view(int64_t i) const {
  const auto parts = static_cast<size_t>(layout_.parts());
  return {{views_.data() + static_cast<size_t>(i) * parts, parts}, layout_.parts()};
}

bool KernelSuite::wants(const std::string& kernel, const std::string& shape,
                        const backend::Work& work) const {
  // The scalar target is there to be right; its long cases would take minutes.
  if (backend::active_target() == "scalar" && work.int8_ops + work.fp32_flops > 4e8) return false;
  return options_.only.empty() || (kernel + " " + shape).find(options_.only) != std::string::npos;
}

void KernelSuite::measure(const KernelCase& c) {
  if (!wants(c.kernel, c.shape, c.work)) return;
  const double error = c.accuracy ? c.accuracy(context_) : -1;
  int64_t i = 0;
  c.call(context_, i++);  // scratch memory and caches of the code
  std::vector<double> samples;
  const auto start = Clock::now();
  while (samples.size() < 3 || seconds_since(start) < options_.seconds) {
    const auto before = Clock::now();
    c.call(context_, i++);
    samples.push_back(1e6 * seconds_since(before));
  }
  const Stats us = stats_of(samples);
  const ops::Limit limit = ops::limit_of(c.work, machine_);
  const double percent = 100 * limit.seconds * 1e6 / us.median;
  Record record = {{"kernel", c.kernel},
                   {"shape", c.shape},
                   {"tokens", c.tokens},
                   {"threads", int64_t{context_.pool.threads()}},
                   {"target", std::string(backend::active_target())},
                   {"us", us}};
  std::string text =
      fmt::format("{:16} {:30} {:5}  {:11.1f} us", c.kernel, c.shape, c.tokens, us.median);
  record.push_back({"gb_s", c.work.bytes / us.median / 1e3});
  record.push_back({"gop_s", (c.work.int8_ops + c.work.fp32_flops) / us.median / 1e3});
  record.push_back({"limit_percent", percent});
  record.push_back({"limit", std::string(limit.bound)});
  text += fmt::format("  {:6.1f}% of {:14}", percent, limit.bound);
  if (error >= 0) {
    record.push_back({"error_over_budget", error});
    text += fmt::format("  error {:.2f} of the budget{}", error, error > 1 ? ": TOO MUCH" : "");
  }
  output_.line(record, text);
}

void run_kernels(const KernelOptions& options, const Output& output) {
  ThreadPool pool(options.threads > 0 ? options.threads : ThreadPool::available_cpus());
  const backend::MachineLimits machine = backend::measure_limits(pool);
  output.line({machine_field(machine, pool.threads())}, machine_text(machine, pool.threads()));
  KernelSuite suite(options, output, pool, machine);
  matmul_kernels(suite);
  attention_kernels(suite);
  convolution_kernels(suite);
  sublayer_kernels(suite);
  elementwise_kernels(suite);
  sample_kernels(suite);
  pack_kernels(suite);
  bookkeeping_kernels(suite);
}

}  // namespace heddle::bench
