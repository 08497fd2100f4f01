// Kernels over a sequence's state: attention, the gated delta rule, causal convolution.
#include <fmt/format.h>

#include <cmath>

#include "bench/kernel_suite.h"
#include "mixers/gated_delta_net/equations.h"
#include "ops/attention/attention.h"
#include "ops/naive.h"
#include "ops/work.h"

namespace heddle::bench {
namespace {

namespace delta = mixers::gated_delta_net;

struct AttentionShape {
  int64_t heads, kv_heads, width;
};

// Queries and output of a step over some sequences.
class AttentionProblem {
 public:
  AttentionProblem(const AttentionShape& shape, int64_t count, int64_t depth, int64_t tokens)
      : shape_(shape),
        kv_{shape.kv_heads, shape.width, shape.width, DType::bf16},
        sequences_({kv_.key_part(0), kv_.value_part(0)}, count, depth, tokens),
        q_(random_values(tokens * shape.heads * shape.width, 1)),
        out_(q_.size()) {}

  ops::AttentionArgs args(const state::StateView& view) {
    ops::AttentionArgs args;
    args.kv = {kv_, &sequences_.batch(), &view, 0, 1};
    args.heads = shape_.heads;
    args.scale = 1 / std::sqrt(static_cast<float>(shape_.width));
    args.q = q_.data();
    args.out = out_.data();
    args.q_stride = args.out_stride = shape_.heads * shape_.width;
    return args;
  }
  // The keys and values of the step's own rows.
  void store(backend::Context& ctx, int64_t i) {
    const state::StateView view = sequences_.view(i);
    const int64_t width = shape_.kv_heads * shape_.width;
    const std::vector<float> kv = random_values(sequences_.batch().tokens * width, 3);
    ops::store_kv(ctx,
                  {{kv_, &sequences_.batch(), &view, 0, 1}, kv.data(), width, kv.data(), width});
  }
  Sequences& sequences() { return sequences_; }
  std::vector<float>& out() { return out_; }

 private:
  AttentionShape shape_;
  ops::KvShape kv_;
  Sequences sequences_;
  std::vector<float> q_, out_;
};

double attention_accuracy(backend::Context& ctx, const AttentionShape& shape, bool decode) {
  AttentionProblem problem(shape, 1, 600, decode ? 1 : 40);  // more than a split of 8 pages
  problem.store(ctx, 0);
  const state::StateView view = problem.sequences().view(0);
  const auto run = [&](auto kernel) {
    kernel(ctx, problem.args(view));
    return problem.out();
  };
  return error_over_budget(run(ops::cpu::attention), run(ops::naive::attention),
                           run(ops::ref::attention));
}

void attention_case(KernelSuite& suite, const AttentionShape& shape, int64_t depth,
                    int64_t tokens) {
  KernelCase c;
  c.kernel = "attention";
  c.shape = fmt::format("{}/{}/{} at {}", shape.heads, shape.kv_heads, shape.width, depth);
  c.tokens = tokens;
  const double bytes = 4.0 * static_cast<double>((depth + tokens) * shape.kv_heads * shape.width);
  c.work.fp32_flops =
      4.0 * static_cast<double>(tokens * (depth + tokens / 2) * shape.heads * shape.width);
  if (!suite.wants(c.kernel, c.shape, c.work)) return;
  AttentionProblem problem(shape, tokens > 64 ? 1 : copies_beyond_caches(bytes), depth, tokens);
  const int64_t count = problem.sequences().count();
  for (int64_t i = 0; i < count; ++i) problem.store(suite.context(), i);
  const state::StateView first = problem.sequences().view(0);
  c.work = ops::attention_work(problem.args(first));
  c.accuracy = [&](backend::Context& ctx) { return attention_accuracy(ctx, shape, tokens == 1); };
  c.call = [&](backend::Context& ctx, int64_t i) {
    const state::StateView view = problem.sequences().view(i % count);
    ops::attention(ctx, problem.args(view));
  };
  suite.measure(c);
}

// Everything of a Gated DeltaNet layer between its projections.
class DeltaProblem {
 public:
  DeltaProblem(const delta::Sizes& sizes, int64_t count, int64_t depth, int64_t tokens)
      : s_(sizes),
        sequences_(parts(sizes), count, depth, tokens),
        projected_(random_values(tokens * sizes.projected(), 1)),
        weights_{random_values(sizes.taps * sizes.channels(), 2, 0.5f),
                 random_values(sizes.value_heads, 3), random_values(sizes.value_heads, 4),
                 random_values(sizes.value_dim, 5, 0.2f)},
        y_(static_cast<size_t>(tokens * sizes.value_width())) {
    for (float& value : weights_.decay) value = -std::exp(value);
    for (float& value : weights_.norm) value += 1;
  }
  delta::MixArgs args(const state::StateView& view) {
    delta::MixArgs args(s_, weights_);
    args.set_step(sequences_.batch(), view, projected_.data(), y_.data());
    return args;
  }
  // The plain recurrence in float32.
  std::vector<float> naive(const delta::MixArgs& args) const {
    std::vector<std::vector<float>> rows;
    const auto width = static_cast<size_t>(s_.projected());
    for (size_t at = 0; at < projected_.size(); at += width)
      rows.emplace_back(projected_.begin() + static_cast<std::ptrdiff_t>(at),
                        projected_.begin() + static_cast<std::ptrdiff_t>(at + width));
    std::vector<float> all;
    for (const auto& row : delta::recurrence<float>(args, rows))
      all.insert(all.end(), row.begin(), row.end());
    return all;
  }
  Sequences& sequences() { return sequences_; }
  std::vector<float>& y() { return y_; }

 private:
  static std::vector<state::StatePart> parts(const delta::Sizes& s) {
    return {ops::causal_conv_part("conv", s.channels(), s.taps),
            delta::linear::fold_part("delta", s)};
  }
  delta::Sizes s_;
  Sequences sequences_;
  std::vector<float> projected_;
  delta::Weights weights_;
  std::vector<float> y_;
};

double delta_accuracy(backend::Context& ctx, const delta::Sizes& sizes, int64_t tokens) {
  DeltaProblem problem(sizes, 1, 0, std::min<int64_t>(tokens, 70));
  const state::StateView view = problem.sequences().view(0);
  const delta::MixArgs args = problem.args(view);
  const std::vector<float> naive = problem.naive(args);
  delta::ref::mix(ctx, args);
  const std::vector<float> exact = problem.y();
  delta::cpu::mix(ctx, args);
  return error_over_budget(problem.y(), naive, exact);
}

void delta_case(KernelSuite& suite, const delta::Sizes& sizes, int64_t depth, int64_t tokens) {
  KernelCase c;
  c.kernel = "delta rule";
  c.shape = fmt::format("{}/{} heads {}x{} at {}", sizes.key_heads, sizes.value_heads,
                        sizes.key_dim, sizes.value_dim, depth);
  c.tokens = tokens;
  state::Segment segment{0, depth, tokens, 0, {}};
  c.work = delta::mix_work(sizes, {tokens, {&segment, 1}, {}});
  if (!suite.wants(c.kernel, c.shape, c.work)) return;
  DeltaProblem problem(sizes, tokens > 64 ? 1 : copies_beyond_caches(c.work.bytes), depth, tokens);
  const int64_t count = problem.sequences().count();
  c.accuracy = [&](backend::Context& ctx) { return delta_accuracy(ctx, sizes, tokens); };
  c.call = [&](backend::Context& ctx, int64_t i) {
    const state::StateView view = problem.sequences().view(i % count);
    delta::cpu::mix(ctx, problem.args(view));
  };
  suite.measure(c);
}

void convolution_case(KernelSuite& suite, int64_t channels, int64_t taps, bool silu,
                      int64_t tokens) {
  KernelCase c;
  c.kernel = "causal conv";
  c.shape = fmt::format("{} channels {} taps{}", channels, taps, silu ? " silu" : "");
  c.tokens = tokens;
  c.work.fp32_flops = 2.0 * static_cast<double>(tokens * channels * taps);
  c.work.bytes = 4.0 * static_cast<double>(channels * (2 * tokens + taps - 1 + taps));
  if (!suite.wants(c.kernel, c.shape, c.work)) return;
  Sequences sequences({ops::causal_conv_part("conv", channels, taps)}, 1, 100, tokens);
  const state::StateView view = sequences.view(0);
  const std::vector<float> x = random_values(tokens * channels, 1);
  const std::vector<float> weights = random_values(taps * channels, 2);
  std::vector<float> y(x.size());
  ops::CausalConvArgs args;
  args.batch = &sequences.batch();
  args.state = &view;
  args.channels = channels;
  args.taps = taps;
  args.weights = weights.data();
  args.silu = silu;
  args.x = x.data();
  args.x_stride = args.y_stride = channels;
  args.y = y.data();
  c.accuracy = [&](backend::Context& ctx) {
    const auto run = [&](auto kernel) {
      kernel(ctx, args);
      return y;
    };
    return error_over_budget(run(ops::cpu::causal_conv), run(ops::naive::causal_conv),
                             run(ops::ref::causal_conv));
  };
  c.call = [&](backend::Context& ctx, int64_t) { ops::cpu::causal_conv(ctx, args); };
  suite.measure(c);
}

}  // namespace

void attention_kernels(KernelSuite& suite) {
  const AttentionShape shapes[] = {{9, 3, 64}, {16, 8, 64}, {32, 8, 128}, {8, 2, 256}, {4, 1, 256}};
  for (const AttentionShape& shape : shapes) {
    attention_case(suite, shape, 0, 512);
    attention_case(suite, shape, 7680, 512);
    attention_case(suite, shape, 16384, 5);  // a window of drafts
    for (const int64_t depth : {512, 4096, 16384}) attention_case(suite, shape, depth, 1);
  }
}

void delta_rule_kernels(KernelSuite& suite) {
  delta::Sizes sizes;
  sizes.d_model = 1024;
  sizes.key_heads = sizes.value_heads = 16;
  sizes.key_dim = sizes.value_dim = 128;
  delta_case(suite, sizes, 64, 512);
  delta_case(suite, sizes, 64, 1);       // just after a fold
  delta_case(suite, sizes, 64 + 16, 1);  // half of the records of a block: the average step
  delta_case(suite, sizes, 64 + 31, 1);  // all records of a block, and a fold
}

void convolution_kernels(KernelSuite& suite) {
  convolution_case(suite, 1024, 3, false, 512);
  convolution_case(suite, 1024, 3, false, 1);
  convolution_case(suite, 6144, 4, true, 512);
}

}  // namespace heddle::bench
