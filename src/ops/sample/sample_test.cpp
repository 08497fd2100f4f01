#include "ops/sample/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "backend/target.h"
#include "base/rng.h"

namespace heddle::ops {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A row with memory of its own, so that it can be asked for again.
struct Question {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<SeenToken> seen;
  std::vector<uint32_t> allowed;
  int64_t position = 0;
  int32_t given = -1;

  int64_t vocab() const { return static_cast<int64_t>(logits.size()); }
};

class Sampling {
 public:
  explicit Sampling(int threads = 1, backend::KernelSet kernels = backend::KernelSet::cpu)
      : pool_(threads), context_{pool_, scratch_, kernels} {}

  // All of one vocabulary, in one call.
  std::vector<Result<Sample>> operator()(const std::vector<Question>& questions) {
    std::vector<std::vector<float>> logits;
    std::vector<SampleRow> rows;
    for (const Question& q : questions) {
      logits.push_back(q.logits);
      SampleRow row;
      row.logits = logits.back().data();
      row.params = &q.params;
      row.seen = q.seen;
      row.allowed = q.allowed.empty() ? nullptr : q.allowed.data();
      row.position = q.position;
      row.given = q.given;
      rows.push_back(row);
    }
    return sample(context_, rows, questions[0].vocab());
  }
  Result<Sample> operator()(const Question& question) {
    return (*this)(std::vector<Question>{question})[0];
  }

 private:
  ThreadPool pool_;
  backend::Arena scratch_;
  backend::Context context_;
};

std::string text_of(const Result<Sample>& result) {
  if (!result) return "error: " + result.error().message;
  const auto bits = [](float x) {
    uint32_t word;
    std::memcpy(&word, &x, sizeof word);
    return fmt::format("{:08x}", word);
  };
  std::string text = fmt::format("{} {}", result->token, bits(result->logprob));
  for (const TokenLogprob& top : result->top)
    text += fmt::format(" {}:{}", top.token, bits(top.logprob));
  return text;
}

std::vector<float> random_logits(int64_t vocab, Rng& rng, float deviation) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& logit : logits) logit = deviation * rng.normal();
  return logits;
}

// Every parameter on or off by itself, with values in and beyond its usual range.
Question random_question(int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  const auto coin = [&] { return rng.below(2) == 0; };
  const auto token = [&] { return static_cast<int32_t>(rng.below(vocab)); };
  Question q;
  q.logits = random_logits(vocab, rng, std::exp(4 * static_cast<float>(rng.unit()) - 1));
  if (coin())  // many equal ones
    for (float& logit : q.logits) logit = std::round(logit);
  SamplingParams& params = q.params;
  params.seed = rng.next();
  q.position = rng.below(100000);
  if (coin()) params.temperature = std::exp(6 * rng.unit() - 4);
  if (rng.below(8) == 0) params.temperature = 0;
  if (coin()) params.top_k = 1 + rng.below(coin() ? 60 : vocab + 3);
  if (coin()) params.top_p = coin() ? 1 - std::exp(-8 * rng.unit()) + 1e-9 : rng.unit() + 1e-3;
  params.top_p = std::min(params.top_p, 1.0);
  if (coin()) params.min_p = coin() ? std::exp(-12 * rng.unit()) : rng.unit();
  if (coin()) {
    params.repetition_penalty = 0.5 + rng.unit();
    params.presence_penalty = 2 * rng.unit() - 1;
    params.frequency_penalty = 2 * rng.unit() - 1;
    std::map<int32_t, SeenToken> seen;
    for (int i = 0; i < 50; ++i) {
      const int32_t t = token();
      SeenToken& entry = seen[t];
      entry.token = t;
      ++(coin() ? entry.prompt : entry.output);
    }
    for (const auto& [t, entry] : seen) q.seen.push_back(entry);
  }
  if (coin()) params.logit_bias = {{token(), 3.0f}, {token(), -2.5f}, {token(), -100.0f}};
  if (rng.below(4) == 0) {
    q.allowed.assign(static_cast<size_t>((vocab + 31) / 32), 0);
    for (uint32_t& word : q.allowed) word = static_cast<uint32_t>(rng.next() & rng.next());
    q.allowed[0] |= 1;
  }
  if (coin()) params.logprobs = static_cast<int>(rng.below(30));
  if (rng.below(8) == 0) q.given = token();
  return q;
}

// What may be drawn, by plain float64: tokens in their order, and the probability of all before.
struct Distribution {
  std::vector<int32_t> tokens;
  std::vector<double> before;  // one more than tokens; ends in 1

  explicit Distribution(const Question& q) {
    Question copy = q;
    SampleRow row;
    row.logits = copy.logits.data();
    row.params = &copy.params;
    row.seen = copy.seen;
    row.allowed = copy.allowed.empty() ? nullptr : copy.allowed.data();
    adjust_logits(row, copy.vocab(), nullptr);
    struct Item {
      double logit;
      int32_t token;
      double weight;
    };
    std::vector<Item> items;
    double highest = -kInfinity;
    for (const float logit : copy.logits) highest = std::max<double>(highest, logit);
    for (size_t i = 0; i < copy.logits.size(); ++i)
      if (copy.logits[i] > -kInfinity)
        items.push_back({copy.logits[i], static_cast<int32_t>(i),
                         std::exp((copy.logits[i] - highest) / q.params.temperature)});
    std::stable_sort(items.begin(), items.end(),
                     [](const Item& a, const Item& b) { return a.logit > b.logit; });
    const auto mass = [&] {
      return std::accumulate(items.begin(), items.end(), 0.0,
                             [](double sum, const Item& item) { return sum + item.weight; });
    };
    if (q.params.top_k > 0 && items.size() > static_cast<size_t>(q.params.top_k))
      items.resize(static_cast<size_t>(q.params.top_k));
    if (q.params.top_p < 1) {
      const double all = mass();
      double above = 0;
      std::erase_if(items, [&](const Item& item) {
        const bool reached = above >= q.params.top_p * all;
        above += item.weight;
        return reached;
      });
    }
    std::erase_if(items, [&](const Item& item) { return item.weight < q.params.min_p; });
    std::sort(items.begin(), items.end(),
              [](const Item& a, const Item& b) { return a.token < b.token; });
    const double total = mass();
    double sum = 0;
    for (const Item& item : items) {
      tokens.push_back(item.token);
      before.push_back(sum / total);
      sum += item.weight;
    }
    before.push_back(1);
  }

  // How far the number that the draw began from lies outside the token's share.
  double distance(const Question& q, int32_t token) const {
    const auto at = std::lower_bound(tokens.begin(), tokens.end(), token);
    if (at == tokens.end() || *at != token) return 1;
    const auto i = static_cast<size_t>(at - tokens.begin());
    const double unit = random_unit(q.params.seed, static_cast<uint64_t>(q.position));
    return std::max({before[i] - unit, unit - before[i + 1], 0.0});
  }
};

// A weight is off by the exponential (1.1 ulp) and its argument (three roundings, by at most the
// argument's size times 2^-24 each; the mean of the argument is at most ln of the vocabulary, here
// below 13), once in its block and once for the block; a block's sum has 36 additions. The sums of
// blocks are in float64.
constexpr double kShareError = (2 * (2 * 1.1 + 3 * 13) + 36) * 0x1p-24;

template <class F>
void on_every_target(F test) {
  for (const std::string_view target : backend::supported_targets()) {
    SCOPED_TRACE(std::string(target));
    ASSERT_TRUE(backend::use_target(target));
    test();
  }
  ASSERT_TRUE(backend::use_target("auto"));
}

constexpr int64_t kVocabularies[] = {1, 2, 15, 16, 17, 511, 512, 513, 3000, 20011};

TEST(Sample, HasTheSameBitsOnEveryTargetThreadCountAndInEveryBatch) {
  for (const int64_t vocab : kVocabularies) {
    SCOPED_TRACE(vocab);
    std::vector<Question> questions;
    for (uint64_t seed = 0; seed < 40; ++seed) questions.push_back(random_question(vocab, seed));
    std::vector<std::string> alone;
    Sampling one;
    for (const Question& q : questions) alone.push_back(text_of(one(q)));
    on_every_target([&] {
      for (const int threads : {1, 2, 3, 50}) {
        SCOPED_TRACE(threads);
        const auto together = Sampling(threads)(questions);
        for (size_t i = 0; i < questions.size(); ++i) EXPECT_EQ(text_of(together[i]), alone[i]);
      }
    });
  }
}

TEST(Sample, EveryTokenIsTheOneThatExactArithmeticDraws) {
  Sampling fast;
  Sampling exact(1, backend::KernelSet::reference);
  int drawn = 0;
  for (const int64_t vocab : kVocabularies) {
    for (uint64_t seed = 1000; seed < 1150; ++seed) {
      const Question q = random_question(vocab, seed);
      if (q.given >= 0) continue;
      SCOPED_TRACE(fmt::format("vocabulary {}, seed {}", vocab, seed));
      const auto a = fast(q);
      const auto b = exact(q);
      ASSERT_TRUE(a && b);
      if (q.params.greedy()) {
        EXPECT_EQ(a->token, b->token);
        continue;
      }
      const Distribution distribution(q);
      EXPECT_LE(distribution.distance(q, b->token), 1e-12);
      EXPECT_LE(distribution.distance(q, a->token), kShareError);
      ++drawn;
    }
  }
  EXPECT_GT(drawn, 500);
}

TEST(Sample, LogProbabilitiesAreThoseOfTheReference) {
  Sampling fast;
  Sampling exact(1, backend::KernelSet::reference);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Question q = random_question(3000, seed);
    q.params.logprobs = static_cast<int>(seed % 40);
    q.params.temperature = 0;
    const auto a = fast(q);
    const auto b = exact(q);
    ASSERT_TRUE(a && b);
    EXPECT_EQ(a->token, b->token);
    const auto near = [](float x, float y) {
      return std::abs(x - y) <= kShareError + 0x1p-23 * std::abs(y);
    };
    EXPECT_TRUE(near(a->logprob, b->logprob)) << a->logprob << " " << b->logprob;
    ASSERT_EQ(a->top.size(), b->top.size());
    ASSERT_EQ(a->top.size(), static_cast<size_t>(q.params.logprobs));
    for (size_t i = 0; i < a->top.size(); ++i) {
      EXPECT_EQ(a->top[i].token, b->top[i].token);
      EXPECT_TRUE(near(a->top[i].logprob, b->top[i].logprob));
    }
  }
}

// The value that chi square with so many degrees of freedom exceeds once in 10^6 (Wilson and
// Hilferty 1931).
double chi_square_limit(double freedom) {
  const double a = 2 / (9 * freedom);
  return freedom * std::pow(1 - a + 4.7534 * std::sqrt(a), 3);
}

TEST(Sample, FrequenciesAreTheProbabilities) {
  constexpr int kDraws = 4000;
  Rng rng(5);
  const std::vector<float> logits = random_logits(700, rng, 2);
  for (int variant = 0; variant < 6; ++variant) {
    SCOPED_TRACE(variant);
    Question q;
    q.logits = logits;
    if (variant == 1) q.params.temperature = 0.6;
    if (variant == 2) q.params.top_k = 40;
    if (variant == 3) q.params.top_p = 0.8;
    if (variant == 4) q.params.min_p = 0.05;
    if (variant == 5) q.params.top_k = 300, q.params.top_p = 0.9, q.params.temperature = 2;
    const Distribution distribution(q);
    std::vector<Question> questions(kDraws / 10, q);
    std::map<int32_t, int> counts;
    Sampling fast;
    for (int round = 0; round < 10; ++round) {
      for (size_t i = 0; i < questions.size(); ++i) {  // neither positions nor seeds may correlate
        const auto draw = static_cast<int64_t>(i) + round * kDraws;
        questions[i].position = round % 2 == 0 ? draw : 3;
        questions[i].params.seed = static_cast<uint64_t>(round % 2 == 0 ? 7 : draw);
      }
      for (const auto& result : fast(questions)) ++counts[result->token];
    }
    double chi_square = 0, expected = 0;
    int bins = 0;
    double found = 0;
    for (size_t i = 0; i < distribution.tokens.size(); ++i) {
      expected += kDraws * (distribution.before[i + 1] - distribution.before[i]);
      found += counts[distribution.tokens[i]];
      if (expected < 10 && i + 1 < distribution.tokens.size()) continue;
      chi_square += (found - expected) * (found - expected) / std::max(expected, 1.0);
      ++bins;
      expected = found = 0;
    }
    EXPECT_LE(chi_square, chi_square_limit(bins - 1)) << bins << " bins";
    for (const auto& [token, count] : counts)
      EXPECT_TRUE(std::binary_search(distribution.tokens.begin(), distribution.tokens.end(), token))
          << token;
  }
}

// Both implementations.
template <class F>
void with_both(F test) {
  for (const auto kernels : {backend::KernelSet::cpu, backend::KernelSet::reference}) {
    SCOPED_TRACE(kernels == backend::KernelSet::cpu ? "cpu" : "reference");
    Sampling sampling(1, kernels);
    test(sampling);
  }
}

std::map<int32_t, int> histogram(Sampling& sampling, Question q, int draws) {
  std::map<int32_t, int> counts;
  for (q.position = 0; q.position < draws; ++q.position) ++counts[sampling(q)->token];
  return counts;
}

TEST(Sample, ZeroTemperatureTakesTheLowestOfTheLikeliest) {
  with_both([](Sampling& sampling) {
    Question q;
    q.logits = {1, 5, 5, 2};
    q.params.temperature = 0;
    EXPECT_EQ(sampling(q)->token, 1);
    q.logits.assign(2000, -2.5f);
    q.logits[700] = q.logits[1800] = -2;
    EXPECT_EQ(sampling(q)->token, 700);
    q.params = {};
    q.params.top_k = 1;
    EXPECT_EQ(sampling(q)->token, 700);
  });
}

TEST(Sample, EqualLogitsAreCutByNumber) {
  with_both([](Sampling& sampling) {
    Question q;
    q.logits.assign(3000, 1.5f);
    q.logits[2000] = 4.5f;
    q.params.top_k = 600;  // more than there are blocks, 599 of them equal
    const auto by_rank = histogram(sampling, q, 400);
    EXPECT_LT(std::next(by_rank.rbegin())->first, 599);
    EXPECT_GT(std::next(by_rank.rbegin())->first, 580);
    EXPECT_EQ(by_rank.rbegin()->first, 2000);
    q.logits[2000] = 1.5f;
    q.params = {};
    q.params.top_p = 0.9;  // 2,700 of them
    const auto by_mass = histogram(sampling, q, 400);
    EXPECT_LT(by_mass.rbegin()->first, 2701);
    EXPECT_GT(by_mass.rbegin()->first, 2650);
  });
}

TEST(Sample, TopPCountsWhatTopKLeft) {
  with_both([](Sampling& sampling) {
    Question q;
    q.logits.assign(1000, 0.0f);  // 0.5, 0.3 and 0.2 of the first three, little of all
    q.logits[0] = std::log(0.5f);
    q.logits[1] = std::log(0.3f);
    q.logits[2] = std::log(0.2f);
    for (size_t i = 3; i < 1000; ++i) q.logits[i] = std::log(0.1f);
    q.params.top_k = 3;
    q.params.top_p = 0.7;
    EXPECT_EQ(histogram(sampling, q, 500).size(), 2u);
    q.params.min_p = 0.7;  // 0.3 is 0.6 of 0.5
    EXPECT_EQ(histogram(sampling, q, 500).size(), 1u);
  });
}

TEST(Sample, HostileLogitsAreDrawnFromOrRefused) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  std::vector<SamplingParams> all(8);
  all[1].temperature = 0;
  all[2].temperature = 1e-300;
  all[3].temperature = 100;
  all[4].top_k = 3;
  all[5].top_p = std::nextafter(1.0, 0.0);
  all[6].top_p = 1e-300;
  all[7].min_p = 1;
  with_both([&](Sampling& sampling) {
    for (size_t p = 0; p < all.size(); ++p) {
      for (const int64_t vocab : kVocabularies) {
        SCOPED_TRACE(fmt::format("parameters {}, vocabulary {}", p, vocab));
        const auto last = static_cast<size_t>(vocab - 1);
        Question q;
        q.params = all[p];
        q.params.logprobs = 5;
        const auto token_of = [&](const std::vector<float>& logits) {
          q.logits = logits;
          const auto result = sampling(q);
          return result ? result->token : -1;
        };
        std::vector<float> flat(static_cast<size_t>(vocab), -7.0f);
        EXPECT_GE(token_of(flat), 0);
        for (const size_t at : {size_t{0}, last / 2, last}) {
          std::vector<float> logits = flat;
          logits[at] = kLargest;
          EXPECT_EQ(token_of(logits), static_cast<int32_t>(at));
          std::fill(logits.begin(), logits.end(), -kLargest);
          logits[at] = kLargest;
          EXPECT_EQ(token_of(logits), static_cast<int32_t>(at));
          std::fill(logits.begin(), logits.end(), -kInfinity);
          EXPECT_EQ(token_of(logits), -1);
          logits[at] = -kLargest;
          EXPECT_EQ(token_of(logits), static_cast<int32_t>(at));
          logits = flat;
          for (const float wrong : {kNan, -kNan, kInfinity}) {
            logits[at] = wrong;
            EXPECT_EQ(token_of(logits), -1) << wrong;
          }
        }
      }
    }
  });
}

TEST(Sample, ARowThatCannotBeSampledIsNotTheOthers) {
  with_both([](Sampling& sampling) {
    std::vector<Question> questions;
    for (uint64_t seed = 0; seed < 12; ++seed) questions.push_back(random_question(3000, seed));
    std::vector<std::string> want;
    for (const Question& q : questions) want.push_back(text_of(sampling(q)));
    questions[3].logits[2999] = std::nanf("");
    questions[7].allowed.assign(94, 0);
    questions[7].given = -1;
    // Finite, until its penalty overflows it.
    questions[9] = {};
    questions[9].logits.assign(3000, 1e38f);
    questions[9].seen = {{5, 1, 0}};
    questions[9].params.repetition_penalty = 1e-3;
    const auto results = sampling(questions);
    for (size_t i = 0; i < questions.size(); ++i) {
      if (i == 3 || i == 9) {
        ASSERT_FALSE(results[i]);
        EXPECT_NE(results[i].error().message.find("not a number"), std::string::npos);
      } else if (i == 7) {
        ASSERT_FALSE(results[i]);
        EXPECT_NE(results[i].error().message.find("no token may be chosen"), std::string::npos);
      } else {
        EXPECT_EQ(text_of(results[i]), want[i]);
      }
    }
  });
}

TEST(Sample, OnlyAllowedTokensAreChosen) {
  with_both([](Sampling& sampling) {
    Question q;
    Rng rng(1);
    q.logits = random_logits(1000, rng, 3);
    q.allowed.assign(32, 0);
    const std::vector<int32_t> allowed = {0, 31, 32, 500, 999};
    for (const int32_t token : allowed)
      q.allowed[static_cast<size_t>(token / 32)] |= 1u << (token % 32);
    q.params.temperature = 50;
    const auto counts = histogram(sampling, q, 300);
    EXPECT_EQ(counts.size(), allowed.size());
    for (const auto& [token, count] : counts)
      EXPECT_NE(std::find(allowed.begin(), allowed.end(), token), allowed.end()) << token;
  });
}

TEST(Sample, PenaltiesAndBiasMoveTheChoice) {
  with_both([](Sampling& sampling) {
    Question q;
    q.seen = {{0, 1, 0}, {1, 0, 1}};
    q.logits = {2.0f, 1.9f, 1.8f};
    q.params.temperature = 0;
    q.params.repetition_penalty = 2;
    EXPECT_EQ(sampling(q)->token, 2);
    q.logits = {-2.0f, -1.9f, -3.9f};  // a penalty lowers what is negative, too
    EXPECT_EQ(sampling(q)->token, 1);
    q.logits = {1.0f, 2.0f, 1.8f};
    q.params.repetition_penalty = 1;
    q.params.frequency_penalty = 0.5;
    EXPECT_EQ(sampling(q)->token, 2);
    q.params.frequency_penalty = 0;
    q.params.presence_penalty = 0.5;
    q.seen[1].output = 9;  // once is enough, and no more than once
    EXPECT_EQ(sampling(q)->token, 2);
    q.logits[2] = 1.4f;
    EXPECT_EQ(sampling(q)->token, 1);
    q.params.presence_penalty = 0;
    q.params.logit_bias = {{0, 5.0f}};
    EXPECT_EQ(sampling(q)->token, 0);
  });
}

TEST(Sample, LogProbabilitiesAreOfTheModelBeforePenaltiesAndTemperature) {
  with_both([](Sampling& sampling) {
    Question q;
    q.logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
    q.params.temperature = 0;
    q.params.logprobs = 2;
    q.params.logit_bias = {{2, 10.0f}};
    q.params.presence_penalty = 1;
    q.seen = {{0, 0, 1}, {2, 0, 1}};
    q.allowed = {4};
    const auto chosen = sampling(q);
    ASSERT_TRUE(chosen);
    EXPECT_EQ(chosen->token, 2);
    const auto near = [](float x, double y) { return std::abs(x - y) <= kShareError; };
    EXPECT_TRUE(near(chosen->logprob, std::log(0.2))) << chosen->logprob;
    ASSERT_EQ(chosen->top.size(), 2u);
    EXPECT_EQ(chosen->top[0].token, 0);
    EXPECT_TRUE(near(chosen->top[0].logprob, std::log(0.5))) << chosen->top[0].logprob;
    EXPECT_EQ(chosen->top[1].token, 1);
    q.given = 1;  // scored as it is: neither drawn nor changed
    const auto given = sampling(q);
    ASSERT_TRUE(given);
    EXPECT_EQ(given->token, 1);
    EXPECT_TRUE(near(given->logprob, std::log(0.3))) << given->logprob;
  });
}

}  // namespace
}  // namespace heddle::ops
