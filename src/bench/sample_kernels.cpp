// Choosing tokens. The bytes are the logits, read once; the rest of a case's time are exponentials.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "bench/kernel_suite.h"
#include "ops/sample/sample.h"

namespace heddle::bench {
namespace {

void sample_case(KernelSuite& suite, const char* name, int64_t vocab, int64_t rows,
                 const ops::SamplingParams& params) {
  KernelCase c;
  c.kernel = "sample";
  c.shape = fmt::format("{} of {}", name, vocab);
  c.tokens = rows;
  c.work = ops::sample_work(rows, vocab);
  if (!suite.wants(c.kernel, c.shape, c.work)) return;
  const int64_t copies = copies_beyond_caches(c.work.bytes);
  std::vector<float> logits = random_values(copies * rows * vocab, 1, 3);
  std::vector<ops::SeenToken> seen;
  for (int32_t i = 0; i < 500; ++i)
    seen.push_back({static_cast<int32_t>(i * (vocab / 500)), i % 3, i % 2});
  c.call = [&](backend::Context& ctx, int64_t i) {
    std::vector<ops::SampleRow> batch(static_cast<size_t>(rows));
    float* first = logits.data() + i % copies * rows * vocab;
    for (int64_t r = 0; r < rows; ++r) {
      ops::SampleRow& row = batch[static_cast<size_t>(r)];
      row.logits = first + r * vocab;
      row.params = &params;
      row.seen = seen;
      row.position = i * rows + r;
      // Penalties write into the logits: without this they would wear them down from call to call.
      if (params.penalises())
        for (const ops::SeenToken& token : seen)
          row.logits[token.token] = static_cast<float>(token.token % 16);
    }
    for (const auto& result : ops::sample(ctx, batch, vocab)) HEDDLE_CHECK(result.has_value());
  };
  suite.measure(c);
}

}  // namespace

void sample_kernels(KernelSuite& suite) {
  ops::SamplingParams greedy, nucleus, penalised;
  greedy.temperature = 0;
  nucleus.top_p = 0.95;
  penalised.top_k = 40;
  penalised.top_p = 0.95;
  penalised.repetition_penalty = 1.1;
  penalised.presence_penalty = 0.5;
  penalised.frequency_penalty = 0.1;
  for (const int64_t rows : {1, 64}) {
    for (const int64_t vocab : {49152, 248320}) {
      sample_case(suite, "greedy", vocab, rows, greedy);
      sample_case(suite, "temperature 1", vocab, rows, {});
      sample_case(suite, "top-p 0.95", vocab, rows, nucleus);
      sample_case(suite, "k 40, p 0.95, penalties", vocab, rows, penalised);
    }
  }
}

}  // namespace heddle::bench
