#include "text/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <thread>

#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/tokenizer_json.h"

namespace heddle::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

// All 256 bytes, and a few merges.
GgufTokenizerMetadata byte_level_metadata(const std::string& pre = "gpt-2") {
  GgufTokenizerMetadata m;
  m.model = "gpt2";
  m.pre = pre;
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    m.tokens.push_back(encode_byte_alphabet(std::string_view(&c, 1)));
  }
  m.types.assign(256, 1);
  for (const char* merge : {"h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "a a", "aa aa"}) {
    m.merges.emplace_back(merge);
    std::string text(merge);
    text.erase(text.find(' '), 1);
    m.tokens.push_back(text);
    m.types.push_back(1);
  }
  m.tokens.push_back("<|im_end|>");
  m.types.push_back(3);
  m.tokens.push_back("<tool>");
  m.types.push_back(4);
  m.eos = 264;
  m.bos = 264;
  return m;
}

// SentencePiece with byte tokens: 0 unk, 1 bos, 2 eos, 3..258 bytes, then pieces.
GgufTokenizerMetadata sentence_piece_metadata() {
  GgufTokenizerMetadata m;
  m.model = "llama";
  const auto add = [&](const std::string& text, float score, int32_t type) {
    m.tokens.push_back(text);
    m.scores.push_back(score);
    m.types.push_back(type);
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  for (int b = 0; b < 256; ++b) add(fmt::format("<0x{:02X}>", b), 0, 6);
  float score = -1;
  for (const char* text :
       {"▁", "h", "e", "l", "o", "w", "he", "ll", "hell", "hello", "▁hello", "▁w", "ö"}) {
    add(text, score, 1);
    score -= 1;
  }
  return m;
}

Tokenizer make(GgufTokenizerMetadata metadata) {
  auto vocabulary = vocabulary_from_gguf(std::move(metadata));
  EXPECT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  auto tokenizer = Tokenizer::create(std::move(*vocabulary));
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return std::move(*tokenizer);
}

std::string random_bytes(std::mt19937& rng, bool text) {
  static const std::vector<std::string> kPieces = {
      "hello", " w",         "12",     "aaaa", " ",  "  ", "\n",        "ö", "🦙",
      "我",    "<|im_end|>", "<tool>", "</s>", "'s", "\t", "é\xCC\x81", "!"};
  std::string out;
  for (uint32_t n = rng() % 20; n > 0; --n) {
    if (text || rng() % 2 == 0) {
      out += kPieces[rng() % kPieces.size()];
    } else {
      out += static_cast<char>(rng() % 256);
    }
  }
  return out;
}

TEST(Tokenizer, MergesByRankWithinWords) {
  const Tokenizer t = make(byte_level_metadata());
  EXPECT_THAT(t.encode("hello"), ElementsAre(259));
  EXPECT_THAT(t.encode("hello w"), ElementsAre(259, 260));
  EXPECT_THAT(t.encode("aaaaaaa"), ElementsAre(263, 262, 'a'));
  EXPECT_THAT(t.encode("hell o"), ElementsAre(258, ' ', 'o'));
}

TEST(Tokenizer, SpecialTokensInTextOnlyWhenAsked) {
  const Tokenizer t = make(byte_level_metadata());
  EXPECT_THAT(t.encode("hello<|im_end|>"), ElementsAre(259, 264));
  EXPECT_GT(t.encode("<|im_end|>", {true, false}).size(), 1u);
  EXPECT_THAT(t.encode("<tool>", {true, false}),
              ElementsAre(265));  // user-defined ones are always found
  EXPECT_TRUE(t.is_special(264));
  EXPECT_FALSE(t.is_special(265));
  EXPECT_TRUE(t.is_end_of_generation(264));
  EXPECT_EQ(t.find("<|im_end|>"), 264);
  EXPECT_EQ(t.find("Ġw"), 260);
  EXPECT_EQ(t.find("nothing"), std::nullopt);
  const Ids ids = {259, 264, 260};
  EXPECT_EQ(t.decode(ids), "hello w");
  EXPECT_EQ(t.decode(ids, {.skip_special = false}), "hello<|im_end|> w");
}

TEST(Tokenizer, MarksAreCountedWhereTheTextSoFarGivesTheTokensSoFar) {
  std::mt19937 rng(7);
  for (const bool byte_level : {true, false}) {
    const Tokenizer t = make(byte_level ? byte_level_metadata() : sentence_piece_metadata());
    const std::string special = byte_level ? "<|im_end|>" : "</s>";
    int64_t sides = 0;
    for (int round = 0; round < 200; ++round) {
      const std::string text =
          random_bytes(rng, true) + special + random_bytes(rng, round % 2 == 0);
      std::vector<int64_t> marks(text.size() + 1);
      std::iota(marks.begin(), marks.end(), 0);
      const EncodeOptions options{.add_special = round % 3 == 0};
      std::vector<int64_t> counts;
      const Ids ids = t.encode(text, options, marks, counts);
      ASSERT_EQ(ids, t.encode(text, options));
      ASSERT_EQ(counts.size(), marks.size());
      for (size_t i = 0; i < counts.size(); ++i) {
        const std::string head = text.substr(0, i);
        const bool side = text.substr(i).starts_with(special) || head.ends_with(special);
        sides += side;
        EXPECT_TRUE(counts[i] >= 0 || !side) << text << " " << i;
        if (counts[i] < 0) continue;
        const Ids shorter = t.encode(head, {.add_special = false});
        const auto added =
            static_cast<int64_t>(options.add_special ? t.vocabulary().prefix.size() : 0);
        ASSERT_EQ(std::ssize(shorter) + added, counts[i]) << text << " " << i;
        ASSERT_TRUE(std::equal(shorter.begin(), shorter.end(), ids.begin() + added)) << text << i;
      }
    }
    EXPECT_GE(sides, 400);
  }
}

TEST(Tokenizer, SentencePieceSpacesAndByteFallback) {
  const Tokenizer t = make(sentence_piece_metadata());
  EXPECT_THAT(t.encode("hello"), ElementsAre(1, 269));
  EXPECT_THAT(t.encode("hello", {false, true}), ElementsAre(269));
  EXPECT_THAT(t.encode("ö", {false, true}), ElementsAre(259, 271));
  EXPECT_THAT(t.encode("é", {false, true}), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_THAT(t.encode("", {true, true}), ElementsAre(1));
  const Ids ids = t.encode("hello hello");
  EXPECT_EQ(t.decode(ids), "hello hello");
  EXPECT_EQ(t.decode(Ids{269}, {.text_start = false}), " hello");
}

TEST(Tokenizer, RoundTripOfAnyBytes) {
  std::mt19937 rng(1);
  const Tokenizer bytes = make(byte_level_metadata());
  const Tokenizer pieces = make(sentence_piece_metadata());
  for (int i = 0; i < 2000; ++i) {
    const std::string text = random_bytes(rng, i % 2 == 0);
    for (const Tokenizer* t : {&bytes, &pieces}) {
      const Ids ids = t->encode(text, {false, false});
      EXPECT_EQ(t->decode_bytes(ids, {.skip_special = false}), text);
      EXPECT_EQ(t->decode(ids, {.skip_special = false}), sanitize_utf8(text));
    }
  }
}

TEST(StreamDecoder, PiecesAreTheWholeAndAlwaysUtf8) {
  std::mt19937 rng(2);
  const Tokenizer bytes = make(byte_level_metadata());
  const Tokenizer pieces = make(sentence_piece_metadata());
  for (int i = 0; i < 2000; ++i) {
    for (const Tokenizer* t : {&bytes, &pieces}) {
      Ids ids;
      if (i % 2 == 0) {
        ids = t->encode(random_bytes(rng, i % 4 == 0));
      } else {  // what a model may well write: any tokens in any order
        for (uint32_t n = rng() % 20; n > 0; --n) ids.push_back(static_cast<int32_t>(rng() % 270));
      }
      const DecodeOptions options{.skip_special = i % 3 != 0, .text_start = i % 5 != 0};
      StreamDecoder stream(*t, options);
      std::string all;
      for (const int32_t id : ids) {
        const std::string piece = stream.push(id);
        EXPECT_EQ(valid_utf8_prefix(piece), static_cast<int64_t>(piece.size()));
        EXPECT_LE(stream.pending().size(), 3u);
        all += piece;
      }
      all += stream.flush();
      EXPECT_EQ(all, t->decode(ids, options));
    }
  }
}

TEST(StreamDecoder, HoldsAnIncompleteCharacterBack) {
  const Tokenizer t = make(byte_level_metadata());
  StreamDecoder stream(t);
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.push(0x9F), "");
  EXPECT_EQ(stream.push(0xA6), "");
  EXPECT_EQ(stream.push(0x99), "🦙");
  EXPECT_EQ(stream.push(0xE6), "");
  EXPECT_EQ(stream.push('x'), std::string(kReplacementCharacter) + "x");
  EXPECT_EQ(stream.push(0xC3), "");
  EXPECT_EQ(stream.flush(), kReplacementCharacter);
  EXPECT_EQ(stream.push('y'), "y");
}

// Time that grows with the square of the length would take minutes here.
TEST(Tokenizer, HostileTextTakesNearlyLinearTime) {
  const size_t n = 200'000;
  const std::string words[] = {std::string(n, 'a'), std::string(n, ' '),    std::string(n, '\n'),
                               std::string(n, '1'), std::string(n, '\xFF'), std::string(n, '\xF0')};
  for (const std::string& text : words) {
    for (const char* pre : {"gpt-2", "gpt-4o", "llama-bpe", "deepseek-v3"}) {
      const Tokenizer t = make(byte_level_metadata(pre));
      EXPECT_EQ(t.decode_bytes(t.encode(text, {false, true})), text);
    }
    const Tokenizer t = make(sentence_piece_metadata());
    EXPECT_EQ(t.decode_bytes(t.encode(text, {false, true})), text);
  }
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer t = make(byte_level_metadata("qwen2"));
  std::mt19937 rng(3);
  std::vector<std::string> texts;
  std::vector<Ids> expected;
  for (int i = 0; i < 50; ++i) {
    texts.push_back(random_bytes(rng, false) + std::string(3000, 'a'));
    expected.push_back(t.encode(texts.back()));
  }
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t k = 0; k < 4; ++k) {
    threads.emplace_back([&, k] {
      for (size_t i = 0; i < texts.size(); ++i) wrong[k] += t.encode(texts[i]) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(GgufVocabulary, RefusesWhatContradictsItself) {
  const auto error = [](auto change) {
    GgufTokenizerMetadata m = byte_level_metadata();
    change(m);
    auto v = vocabulary_from_gguf(std::move(m));
    return v ? std::string("accepted") : v.error().message;
  };
  EXPECT_THAT(error([](auto& m) { m.model = "bert"; }), HasSubstr("'bert'"));
  EXPECT_THAT(error([](auto& m) { m.pre = "unheard-of"; }), HasSubstr("'unheard-of'"));
  EXPECT_THAT(error([](auto& m) { m.tokens.clear(); }), HasSubstr("tokens is empty"));
  EXPECT_THAT(error([](auto& m) { m.types.resize(3); }), HasSubstr("token_type has 3 entries"));
  EXPECT_THAT(error([](auto& m) { m.merges.clear(); }), HasSubstr("merges is empty"));
  EXPECT_THAT(error([](auto& m) { m.merges[1] = "ll"; }), HasSubstr("merges[1]"));
  EXPECT_THAT(error([](auto& m) { m.model = "llama"; }), HasSubstr("scores is missing"));
}

TEST(GgufVocabulary, EveryPreTokenizerCompiles) {
  for (const char* name :
       {"default",    "llama-bpe",    "lfm2",           "smollm",      "gpt-2",      "qwen2",
        "qwen35",     "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon",     "starcoder",
        "refact",     "command-r",    "gpt-4o",         "kimi-k2",     "dbrx",       "mpt",
        "stablelm2",  "olmo",         "tekken",         "superbpe",    "exaone-moe", "viking",
        "bailingmoe", "seed-coder",   "tiny_aya",       "minicpm5",    "laguna",     "glm4"}) {
    const Tokenizer t = make(byte_level_metadata(name));
    const std::string text = "Hello's 12345 wörld\n\n  我们 x_y!? 👍🏽 \t\r\n 'LL";
    EXPECT_EQ(t.decode(t.encode(text, {false, true})), text) << name;
  }
}

TEST(AddedTokens, LongestFirstAndLeftmostLongestDiffer) {
  const auto token = [](int32_t id, const char* text) {
    AddedToken t;
    t.id = id;
    t.text = text;
    return t;
  };
  const std::vector<AddedToken> tokens = {token(1, "<a>"), token(2, "a>bc"), token(3, "\n"),
                                          token(4, "\n\n\n")};
  std::vector<AddedTokens::Match> matches;
  AddedTokens(tokens, AddedTokenOrder::kLongestFirst).find("x<a>bc\n\n\n\n", true, matches);
  ASSERT_EQ(matches.size(), 3u);
  EXPECT_EQ(matches[0].id, 2);
  EXPECT_EQ(matches[1].id, 4);
  EXPECT_EQ(matches[2].id, 3);
  matches.clear();
  AddedTokens(tokens, AddedTokenOrder::kLeftmostLongest).find("x<a>bc", true, matches);
  ASSERT_EQ(matches.size(), 1u);
  EXPECT_EQ(matches[0].id, 1);
}

TEST(Split, Behaviors) {
  const std::vector<Span> matches = {{1, 2}, {2, 3}, {5, 6}};  // a-_b c_ -> positions of '-'
  const auto pieces = [&](SplitBehavior behavior, bool invert = false) {
    std::vector<Span> out;
    split_by_matches({0, 7}, matches, behavior, invert, out);
    std::string text;
    for (const Span& s : out) text += fmt::format("{}-{} ", s.begin, s.end);
    return text;
  };
  EXPECT_EQ(pieces(SplitBehavior::kIsolated), "0-1 1-2 2-3 3-5 5-6 6-7 ");
  EXPECT_EQ(pieces(SplitBehavior::kRemoved), "0-1 3-5 6-7 ");
  EXPECT_EQ(pieces(SplitBehavior::kRemoved, true), "1-2 2-3 5-6 ");
  EXPECT_EQ(pieces(SplitBehavior::kMergedWithPrevious), "0-2 2-3 3-6 6-7 ");
  EXPECT_EQ(pieces(SplitBehavior::kMergedWithNext), "0-1 1-2 2-5 5-7 ");
  EXPECT_EQ(pieces(SplitBehavior::kContiguous), "0-1 1-3 3-5 5-6 6-7 ");
}

TEST(Regex, DialectIsTranslated) {
  const auto find = [](const char* pattern, std::string_view text) {
    auto regex = Regex::compile(pattern);
    EXPECT_TRUE(regex.has_value()) << regex.error().message;
    std::vector<Span> matches;
    if (regex) regex->find_all(text, matches);
    std::string out;
    for (const Span& s : matches) {
      out += "[" +
             std::string(
                 text.substr(static_cast<size_t>(s.begin), static_cast<size_t>(s.end - s.begin))) +
             "]";
    }
    return out;
  };
  EXPECT_EQ(find(R"([\p{L}&&[^\p{Han}]]+)", "ab我c"), "[ab][c]");
  EXPECT_EQ(find(R"(\s+)", "a\xC2\x85\xE1\xA0\x8E b"),
            "[\xC2\x85][ ]");  // U+180E is no white space
  EXPECT_EQ(find(R"(\h+)", "xfaceg"), "[face]");
  EXPECT_EQ(find(R"((?=(\d{3})+(?!\d)))", "1234"), "[]");
  EXPECT_FALSE(Regex::compile("(").has_value());
  EXPECT_FALSE(Regex::compile("[a[^b]]").has_value());
}

}  // namespace
}  // namespace heddle::text
