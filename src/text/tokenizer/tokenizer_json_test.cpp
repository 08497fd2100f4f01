#include "text/tokenizer/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "text/tokenizer/tokenizer.h"

namespace heddle::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json tiny() {
  return Json::parse(R"({
    "added_tokens": [{"id": 9, "content": "<|end|>", "special": true, "normalized": false},
                     {"id": 10, "content": "ab", "special": false, "single_word": true, "lstrip": true,
                      "rstrip": true, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [9], "tokens": ["<|end|>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "bc": 4, "Ġa": 5, "abc": 6, "1": 7, "2": 8},
              "merges": ["b c", "Ġ a", "a bc"]}})");
}

Result<Tokenizer> load(const Json& root, TokenizerFiles files = {}) {
  files.tokenizer = root.dump();
  auto vocabulary = vocabulary_from_json(files);
  if (!vocabulary) return tl::unexpected<Error>(vocabulary.error());
  return Tokenizer::create(std::move(*vocabulary));
}

std::string error_of(const Json& root) {
  const auto t = load(root);
  return t ? "accepted" : t.error().message;
}

TEST(TokenizerJson, EncodesAndDecodes) {
  const auto t = load(tiny());
  ASSERT_TRUE(t.has_value()) << t.error().message;
  EXPECT_THAT(t->encode("abc a"), ElementsAre(9, 6, 5));
  EXPECT_THAT(t->encode("bc", {false, true}), ElementsAre(4));
  EXPECT_THAT(t->encode("c ab c", {false, true}),
              ElementsAre(2, 10, 2));  // takes the spaces at its sides
  EXPECT_THAT(t->encode("cabc", {false, true}), ElementsAre(2, 6));  // no single word
  EXPECT_EQ(t->decode(std::vector<int32_t>{9, 6, 5}), "abc a");
  EXPECT_THAT(t->encode("axb", {false, true}),
              ElementsAre(0, 1));  // no token for x, and no unknown token
}

TEST(TokenizerJson, MergesAsLists) {
  Json root = tiny();
  root["model"]["merges"] = Json::parse(R"([["b","c"],["Ġ","a"],["a","bc"]])");
  const auto t = load(root);
  ASSERT_TRUE(t.has_value()) << t.error().message;
  EXPECT_THAT(t->encode("abc a"), ElementsAre(9, 6, 5));
}

TEST(TokenizerJson, IgnoreMergesTakesWholeWords) {
  Json root = tiny();
  root["model"]["merges"] = Json::array();
  EXPECT_THAT(load(root)->encode("abc", {false, true}), ElementsAre(0, 1, 2));
  root["model"]["ignore_merges"] = true;
  EXPECT_THAT(load(root)->encode("abc", {false, true}), ElementsAre(6));
}

TEST(TokenizerJson, ConfigNamesTheSpecialTokens) {
  TokenizerFiles files;
  files.tokenizer_config = R"({"eos_token": {"content": "<|end|>"}, "bos_token": null,
      "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]})";
  files.generation_config = R"({"eos_token_id": [9, 8]})";
  auto t = load(tiny(), files);
  ASSERT_TRUE(t.has_value()) << t.error().message;
  EXPECT_EQ(t->eos(), 9);
  EXPECT_EQ(t->bos(), std::nullopt);
  EXPECT_TRUE(t->is_end_of_generation(8));
  EXPECT_EQ(t->vocabulary().chat_template, "D");
  EXPECT_EQ(t->vocabulary().named_templates.at("tool_use"), "T");
  files.chat_template = "J";
  EXPECT_EQ(load(tiny(), files)->vocabulary().chat_template, "J");
  files.tokenizer_config = "[";
  EXPECT_FALSE(load(tiny(), files).has_value());
}

TEST(TokenizerJson, RefusesByName) {
  const auto with = [](const char* pointer, Json value) {
    Json root = tiny();
    root[Json::json_pointer(pointer)] = std::move(value);
    return error_of(root);
  };
  EXPECT_THAT(with("/model/type", "Unigram"), HasSubstr("Unigram"));
  EXPECT_THAT(with("/model/type", 3), HasSubstr("model type 3"));
  EXPECT_THAT(with("/model/dropout", 0.1), HasSubstr("dropout"));
  EXPECT_THAT(with("/model/end_of_word_suffix", "</w>"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(with("/model/unk_token", "<unk>"), HasSubstr("unk_token"));
  EXPECT_THAT(with("/model/merges/0", "b z"), HasSubstr("'z'"));
  EXPECT_THAT(with("/model/merges/0", 7), HasSubstr("merge 0"));
  EXPECT_THAT(with("/model/merges/0", "bc"), HasSubstr("merge 0"));
  EXPECT_THAT(with("/model/vocab/a", -1), HasSubstr("'a'"));
  EXPECT_THAT(with("/model/vocab/a", 1), HasSubstr("same id 1"));
  EXPECT_THAT(with("/model/vocab/a", 15'000'000), HasSubstr("ids up to 15000000"));
  EXPECT_THAT(with("/normalizer", Json{{"type", "Precompiled"}}),
              HasSubstr("normalizer 'Precompiled'"));
  EXPECT_THAT(with("/pre_tokenizer", Json{{"type", "UnicodeScripts"}}),
              HasSubstr("'UnicodeScripts'"));
  EXPECT_THAT(with("/pre_tokenizer/add_prefix_space", 1), HasSubstr("add_prefix_space"));
  EXPECT_THAT(with("/post_processor", Json{{"type", "Odd"}}), HasSubstr("post_processor 'Odd'"));
  EXPECT_THAT(with("/post_processor/special_tokens", Json::object()), HasSubstr("<|end|>"));
  EXPECT_THAT(with("/post_processor/special_tokens/<|end|>/ids", Json{99}), HasSubstr("token 99"));
  EXPECT_THAT(with("/decoder", Json{{"type", "WordPiece"}}), HasSubstr("decoder 'WordPiece'"));
  EXPECT_THAT(with("/added_tokens/0/id", "x"), HasSubstr("<|end|>"));
  EXPECT_THAT(with("/model", Json()), HasSubstr("'model'"));
  EXPECT_THAT(with("/normalizer",
                   Json{{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}}),
              HasSubstr("regular expression '('"));
  Json deep = {{"type", "NFC"}};
  for (int i = 0; i < 50; ++i)
    deep = Json{{"type", "Sequence"}, {"normalizers", Json::array({deep})}};
  EXPECT_THAT(with("/normalizer", deep), HasSubstr("too deep"));
}

// Whatever is cut out of a file or put into it, it is refused or it works: never more than that.
TEST(TokenizerJson, DamagedFiles) {
  const std::string whole = tiny().dump();
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char c : {'0', '"', '}', '['}) {
      TokenizerFiles files;
      files.tokenizer = whole;
      files.tokenizer[i] = c;
      auto vocabulary = vocabulary_from_json(files);
      if (!vocabulary) continue;
      const auto t = Tokenizer::create(std::move(*vocabulary));
      if (t) (void)t->encode("abc 12 <|end|> \xFF");
    }
  }
}

}  // namespace
}  // namespace heddle::text
