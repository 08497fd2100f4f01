// The kernels against the recurrence in float64, and a row's bits however it was computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "test/support/gpu_linear_attention.h"

namespace heddle::test {
namespace {

struct NamedShape {
  const char* name;
  LinearShape shape;
};

std::vector<NamedShape> shapes() {
  return {{"gated_delta_net", {LinearGate::kHead, LinearWrite::kDelta, 2, 4, 128, 128}},
          {"kda", {LinearGate::kChannel, LinearWrite::kDelta, 2, 2, 128, 128}},
          {"lightning", {LinearGate::kHead, LinearWrite::kPlain, 2, 2, 128, 128}},
          {"mamba2", {LinearGate::kHead, LinearWrite::kPlain, 1, 4, 128, 64}}};
}

// What a way through a sequence left.
struct Outcome {
  std::vector<uint16_t> o;
  std::vector<float> summary;  // of the last boundary; empty before the first
};

void expect_equal(const Outcome& a, const Outcome& b, const std::string& what,
                  const LinearShape& shape) {
  ASSERT_EQ(a.o.size(), b.o.size()) << what;
  const int64_t width = shape.value_heads * shape.value_width;
  for (size_t i = 0; i < a.o.size(); ++i)
    ASSERT_EQ(a.o[i], b.o[i]) << what << ": row " << static_cast<int64_t>(i) / width << " column "
                              << static_cast<int64_t>(i) % width << ", " << bf16_to_f32(a.o[i])
                              << " and " << bf16_to_f32(b.o[i]);
  ASSERT_EQ(a.summary.size(), b.summary.size()) << what;
  EXPECT_EQ(std::memcmp(a.summary.data(), b.summary.data(), a.summary.size() * 4), 0) << what;
}

std::vector<float> widen(const std::vector<uint16_t>& x) {
  std::vector<float> y(x.size());
  std::transform(x.begin(), x.end(), y.begin(), bf16_to_f32);
  return y;
}

// Errors of o, and of the summary at a boundary, over twice those of the naive form.
void expect_close(const LinearShape& shape, const LinearInputs& in, const Outcome& out,
                  const std::string& what) {
  const auto exact = linear_recurrence<double>(shape, in);
  const auto naive = linear_recurrence<float>(shape, in);
  const double error = relative_error(widen(out.o), exact.o);
  const double budget = 2 * relative_error(naive.o, exact.o);
  std::printf("%-48s o %.2e of %.2e (%.2f)", what.c_str(), error, budget, error / budget);
  EXPECT_LE(error, budget) << what;
  if (in.tokens % kLinearFold == 0 && in.tokens > 0) {
    const double state = relative_error(out.summary, exact.state);
    const double state_budget = 2 * relative_error(naive.state, exact.state);
    std::printf("  state %.2e of %.2e (%.2f)", state, state_budget, state / state_budget);
    EXPECT_LE(state, state_budget) << what;
  }
  std::printf("\n");
}

class LinearGpu : public Gpu {
 protected:
  Outcome finish(const DeviceSequence& s, std::vector<uint16_t> o) {
    Outcome out;
    out.o = std::move(o);
    if (s.position >= kLinearFold) out.summary = s.summary.download<float>();
    return out;
  }

  void prefill(const LinearShape& shape, const std::vector<DeviceSequence*> sequences,
               const std::vector<const LinearInputs*>& inputs, const std::vector<int64_t>& lengths,
               std::vector<std::vector<uint16_t>>& o) {
    std::vector<std::pair<int64_t, int64_t>> ranges;
    std::vector<LinearSegment> segments;
    int64_t row = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      ranges.emplace_back(sequences[i]->position, lengths[i]);
      segments.push_back(sequences[i]->segment(row, lengths[i]));
      row += lengths[i];
    }
    DeviceStep step(device(), stream(), shape, inputs, ranges);
    step.lay_out(segments, true);
    check(linear_prefill(stream(), step.args));
    const auto rows = step.o.download<uint16_t>();
    const int64_t width = shape.value_heads * shape.value_width;
    for (size_t i = 0; i < sequences.size(); ++i) {
      o[i].insert(o[i].end(), rows.begin() + segments[i].row * width,
                  rows.begin() + (segments[i].row + lengths[i]) * width);
      sequences[i]->advance(lengths[i]);
    }
  }

  void decode(const LinearShape& shape, DeviceSequence& s, const LinearInputs& in,
              std::vector<uint16_t>& o) {
    DeviceStep step(device(), stream(), shape, {&in}, {{s.position, 1}});
    step.lay_out({s.segment(0, 1)}, false);
    check(linear_decode(stream(), step.args));
    if (s.crosses(1)) check(linear_fold(stream(), step.args));
    const auto row = step.o.download<uint16_t>();
    o.insert(o.end(), row.begin(), row.end());
    s.advance(1);
  }

  // The whole prompt in pieces that end at `cuts`, the rest decoded.
  Outcome run(const LinearShape& shape, const LinearInputs& in, const std::vector<int64_t>& cuts) {
    DeviceSequence s(device(), stream(), shape);
    std::vector<std::vector<uint16_t>> o(1);
    for (const int64_t cut : cuts) prefill(shape, {&s}, {&in}, {cut - s.position}, o);
    while (s.position < in.tokens) decode(shape, s, in, o[0]);
    return finish(s, std::move(o[0]));
  }
};

TEST_F(LinearGpu, PromptsMeetTheRecurrence) {
  uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  for (const NamedShape& s : shapes())
    for (const Gates gates : {Gates::kRandom, Gates::kSlow, Gates::kExtreme})
      for (const int64_t tokens : {1, 15, 16, 63, 64, 65, 256, 321, 1024}) {
        const LinearInputs in = random_inputs(s.shape, tokens, gates, seed++);
        expect_close(s.shape, in, run(s.shape, in, {tokens}),
                     std::string(s.name) + " gates " + std::to_string(static_cast<int>(gates)) +
                         " tokens " + std::to_string(tokens));
      }
}

TEST_F(LinearGpu, ChunksAndDecodeHaveThePromptsBits) {
  uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  for (const NamedShape& s : shapes())
    for (const Gates gates : {Gates::kRandom, Gates::kSlow, Gates::kExtreme}) {
      const int64_t tokens = 200;
      const LinearInputs in = random_inputs(s.shape, tokens, gates, seed++);
      const Outcome whole = run(s.shape, in, {tokens});
      const std::string name = std::string(s.name) + " " + std::to_string(static_cast<int>(gates));
      expect_equal(whole, run(s.shape, in, {1, 2, 17, 30, 63, 65, 128, 131, 200}), name + " chunks",
                   s.shape);
      expect_equal(whole, run(s.shape, in, {64, 100, 164, 200}), name + " pages", s.shape);
      expect_equal(whole, run(s.shape, in, {}), name + " decode", s.shape);
      expect_equal(whole, run(s.shape, in, {75, 90}), name + " chunks and decode", s.shape);
    }
}

TEST_F(LinearGpu, ABatchHasTheBitsOfItsSequencesAlone) {
  uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  for (const NamedShape& s : shapes()) {
    // Enough sequences that a head is one block's; one of them brings nothing.
    std::vector<LinearInputs> inputs;
    std::vector<DeviceSequence> sequences;
    std::vector<const LinearInputs*> in;
    std::vector<DeviceSequence*> at;
    std::vector<int64_t> lengths;
    for (int64_t i = 0; i < 80; ++i) {
      lengths.push_back(i == 3 ? 0 : 1 + (i * 37) % 150);
      inputs.push_back(random_inputs(s.shape, lengths.back(), Gates::kRandom, seed++));
      sequences.emplace_back(device(), stream(), s.shape);
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      in.push_back(&inputs[i]);
      at.push_back(&sequences[i]);
    }
    std::vector<std::vector<uint16_t>> o(inputs.size());
    prefill(s.shape, at, in, lengths, o);
    for (size_t i = 0; i < inputs.size(); ++i)
      expect_equal(finish(sequences[i], o[i]), run(s.shape, inputs[i], {lengths[i]}),
                   std::string(s.name) + " sequence " + std::to_string(i), s.shape);
  }
}

}  // namespace
}  // namespace heddle::test
