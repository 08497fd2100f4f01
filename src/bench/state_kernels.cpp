// Kernels over a sequence's state that several mixers share: attention, causal convolution.
#include <fmt/format.h>

#include <cmath>

#include "bench/kernel_suite.h"
#include "ops/attention/attention.h"
#include "ops/naive.h"
#include "ops/work.h"

namespace heddle::bench {
namespace {

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

void convolution_kernels(KernelSuite& suite) {
  convolution_case(suite, 1024, 3, false, 512);
  convolution_case(suite, 1024, 3, false, 1);
  convolution_case(suite, 6144, 4, true, 512);
}

}  // namespace heddle::bench
