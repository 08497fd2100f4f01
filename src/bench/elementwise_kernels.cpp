// Norms, rotation, activations and residuals. Their bytes are activations, read and written once.
#include <fmt/format.h>

#include "base/check.h"
#include "bench/kernel_suite.h"
#include "ops/naive.h"

namespace heddle::bench {
namespace {

// A kernel of (context, args) in three namespaces, over `x` in place or into `y`.
template <class Args>
struct Kernels {
  void (*cpu)(backend::Context&, const Args&);
  void (*ref)(backend::Context&, const Args&);
  void (*naive)(backend::Context&, const Args&);
};

// `output`: where the arguments point for the result; restored from `before` where the kernel works
// in place. `timed`: what is measured, again and again on its own output.
template <class Args>
void run_case(KernelSuite& suite, KernelCase c, const Kernels<Args>& kernels, const Args& args,
              const Args& timed, std::vector<float>& output, const std::vector<float>& before) {
  c.accuracy = [&](backend::Context& ctx) {
    const auto run = [&](auto kernel) {
      if (!before.empty()) output = before;
      kernel(ctx, args);
      return output;
    };
    return error_over_budget(run(kernels.cpu), run(kernels.naive), run(kernels.ref));
  };
  c.call = [&](backend::Context& ctx, int64_t) { kernels.cpu(ctx, timed); };
  suite.measure(c);
}

KernelCase case_of(const char* kernel, std::string shape, int64_t tokens, double floats) {
  KernelCase c;
  c.kernel = kernel;
  c.shape = std::move(shape);
  c.tokens = tokens;
  c.work.bytes = 4 * floats;
  return c;
}

void norm_case(KernelSuite& suite, int64_t tokens, int64_t width, int64_t groups) {
  const int64_t row = width * groups;
  const std::vector<float> x = random_values(tokens * row, 1);
  const std::vector<float> weight = random_values(width, 2);
  std::vector<float> y(x.size());
  ops::RmsNormArgs args{x.data(), row, tokens, width, weight.data(), 1e-6f, y.data(), row};
  args.groups = groups;
  run_case<ops::RmsNormArgs>(suite,
                             case_of("rms norm", fmt::format("{} x {}", groups, width), tokens,
                                     2 * static_cast<double>(x.size())),
                             {ops::cpu::rms_norm, ops::ref::rms_norm, ops::naive::rms_norm}, args,
                             args, y, {});
}

void rope_case(KernelSuite& suite, int64_t tokens, int64_t heads, int64_t width) {
  ops::RopeSpec spec;
  spec.rotary = width;
  const auto rope = ops::make_rope(spec);
  HEDDLE_CHECK(rope.has_value());
  const std::vector<float> before = random_values(tokens * heads * width, 1);
  std::vector<float> x = before;
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < tokens; ++t) positions.push_back(static_cast<int32_t>(4000 + t));
  const ops::RopeArgs args{x.data(), heads * width, tokens, heads, width, positions.data(), &*rope};
  run_case<ops::RopeArgs>(suite,
                          case_of("rope", fmt::format("{} x {}", heads, width), tokens,
                                  2 * static_cast<double>(x.size())),
                          {ops::cpu::rope, ops::ref::rope, ops::naive::rope}, args, args, x,
                          before);
}

void gated_case(KernelSuite& suite, int64_t tokens, int64_t width, ops::Activation activation) {
  const std::vector<float> x = random_values(tokens * 2 * width, 1);
  std::vector<float> y(static_cast<size_t>(tokens * width));
  const ops::GatedArgs args{x.data(), tokens, width, activation, y.data()};
  const char* name = activation == ops::Activation::silu ? "silu" : "gelu";
  run_case<ops::GatedArgs>(suite,
                           case_of("gated", fmt::format("{} {}", name, width), tokens,
                                   3 * static_cast<double>(y.size())),
                           {ops::cpu::gated, ops::ref::gated, ops::naive::gated}, args, args, y,
                           {});
}

void sigmoid_case(KernelSuite& suite, int64_t tokens, int64_t width) {
  const std::vector<float> gate = random_values(tokens * width, 1);
  const std::vector<float> before = random_values(tokens * width, 2);
  std::vector<float> y = before;
  const ops::SigmoidGateArgs args{gate.data(), width, tokens, width, y.data(), width};
  // Open gates: the others would multiply the values down to nothing.
  const std::vector<float> open(gate.size(), 30.0f);
  ops::SigmoidGateArgs timed = args;
  timed.gate = open.data();
  run_case<ops::SigmoidGateArgs>(
      suite,
      case_of("sigmoid gate", fmt::format("{}", width), tokens, 3 * static_cast<double>(y.size())),
      {ops::cpu::sigmoid_gate, ops::ref::sigmoid_gate, ops::naive::sigmoid_gate}, args, timed, y,
      before);
}

}  // namespace

void elementwise_kernels(KernelSuite& suite) {
  for (const int64_t tokens : {1, 512}) {
    norm_case(suite, tokens, 1024, 1);
    norm_case(suite, tokens, 64, 16);
    rope_case(suite, tokens, 12, 64);
    gated_case(suite, tokens, 4608, ops::Activation::silu);
    gated_case(suite, tokens, 2048, ops::Activation::gelu_tanh);
    sigmoid_case(suite, tokens, 2048);
  }
}

}  // namespace heddle::bench
