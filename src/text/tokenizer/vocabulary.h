#pragma once
// What a tokenizer is made of, whatever file it came from: the tokens, how text is cut into words,
// and how words become tokens. GGUF metadata (vocabulary_from_gguf) and tokenizer.json
// (tokenizer_json.h) both end here; Tokenizer::create (tokenizer.h) makes it work.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/unicode.h"

namespace heddle::text {

// How symbols merge into tokens.
enum class VocabularyKind : uint8_t {
  kByteLevelBpe,   // ranked merges over bytes; token texts are written in the byte alphabet
                   // (unicode.h)
  kCharacterBpe,   // ranked merges over characters, unknown ones as <0xXX> bytes; token texts are
                   // plain
  kSentencePiece,  // the pair whose joint token has the highest score merges first; <0xXX> for
                   // unknown characters
};

enum class TokenType : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// A token that is found in the text before anything else happens to it.
struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;      // ignored in text that is not to be parsed for special tokens
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // found in normalised text instead of the text as given
};

// Which of several overlapping added tokens is found.
enum class AddedTokenOrder : uint8_t { kLongestFirst, kLeftmostLongest };

struct NormalizerStep {
  enum class Kind : uint8_t {
    kUnicode,
    kLowercase,
    kStrip,
    kStripMarks,
    kReplace,
    kPrepend,
    kAppend
  };
  Kind kind = Kind::kUnicode;
  NormalizationForm form = NormalizationForm::kNfc;  // kUnicode
  std::string pattern;                               // kReplace: a regular expression
  std::string literal;                               // kReplace: plain text instead of a pattern
  std::string content;                               // kReplace, kPrepend, kAppend
  bool left = true;                                  // kStrip
  bool right = true;
};

enum class SplitBehavior : uint8_t {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous
};

enum class PrependScheme : uint8_t { kNever, kFirst, kAlways };

struct PreTokenizerStep {
  enum class Kind : uint8_t { kSplit, kMetaspace, kPrefixSpace };
  Kind kind = Kind::kSplit;
  std::string pattern;  // kSplit: a regular expression
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
  PrependScheme prepend = PrependScheme::kAlways;  // kMetaspace
  std::string replacement = std::string(kSpaceMark);
  bool split = true;
};

struct DecoderStep {
  // kByteLevel and kByteTokens say how a token's text becomes bytes; the others work on that.
  enum class Kind : uint8_t { kByteLevel, kByteTokens, kReplace, kStripFirst };
  Kind kind = Kind::kByteLevel;
  std::string pattern;  // kReplace: plain text
  std::string content;  // kReplace: what for; kStripFirst: the character
  int32_t count = 0;    // kStripFirst: at most this many at the front of the whole text
};

struct Vocabulary {
  VocabularyKind kind = VocabularyKind::kByteLevelBpe;
  std::vector<std::string> tokens;  // id -> text as the file writes it; empty: no such token
  std::vector<float> scores;        // id -> score; kSentencePiece only
  std::vector<TokenType> types;     // id -> type
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
  bool byte_fallback = true;   // kCharacterBpe: unknown characters become <0xXX> tokens
  bool fuse_unknown = false;   // neighbouring unknown characters become one unknown token
  bool drop_unknown_first =
      false;  // symbols without a token go before merging, where there is no unknown token
  bool drop_unknown_bytes =
      false;  // bytes without a token become nothing, even with an unknown token

  std::vector<AddedToken> added;
  AddedTokenOrder added_order = AddedTokenOrder::kLongestFirst;

  std::string pre_tokenizer;  // the name in the GGUF file, for people to read
  std::vector<NormalizerStep> normalizers;
  std::vector<PreTokenizerStep> pre_tokenizers;
  bool space_after_special =
      false;  // a space goes before the text and before what follows an added token
  std::vector<DecoderStep> decoders;
  bool decode_added_verbatim = true;  // decoder steps leave added tokens alone

  std::optional<int32_t> bos;
  std::optional<int32_t> unknown;
  std::optional<int32_t> padding;
  std::optional<int32_t> end_of_turn;
  std::vector<int32_t> eos;                // the first is the one that add_eos appends
  std::vector<int32_t> end_of_generation;  // every token that ends an answer, eos included
  std::vector<int32_t> prefix;             // what add_special puts before the text, usually bos
  std::vector<int32_t> suffix;             // and after it

  std::string chat_template;                           // empty: none
  std::map<std::string, std::string> named_templates;  // other templates of the file, by name
};

// GGUF's metadata under "tokenizer.", as the file has it; absent keys are empty or nullopt.
struct GgufTokenizerMetadata {
  std::string model;                // tokenizer.ggml.model
  std::string pre;                  // tokenizer.ggml.pre
  std::vector<std::string> tokens;  // tokenizer.ggml.tokens
  std::vector<float> scores;        // tokenizer.ggml.scores
  std::vector<int32_t> types;       // tokenizer.ggml.token_type
  std::vector<std::string> merges;  // tokenizer.ggml.merges
  std::optional<int64_t> bos, eos, eot, eom, unknown,
      padding;  // tokenizer.ggml.{bos,eos,eot,eom,unknown,padding}_token_id
  std::optional<bool> add_bos, add_eos;                // tokenizer.ggml.add_{bos,eos}_token
  std::optional<bool> add_space_prefix;                // tokenizer.ggml.add_space_prefix
  std::optional<bool> remove_extra_whitespaces;        // tokenizer.ggml.remove_extra_whitespaces
  std::string chat_template;                           // tokenizer.chat_template
  std::map<std::string, std::string> named_templates;  // tokenizer.chat_template.NAME
  std::string model_name;                              // general.name
};

// Errors: a model kind or pre-tokenizer that is not supported (named), sizes that do not agree, ids
// out of range.
Result<Vocabulary> vocabulary_from_gguf(GgufTokenizerMetadata metadata);

// The splits of a pre-tokenizer that GGUF files name, applied one after the other; nullopt for an
// unknown name.
struct GgufPreTokenizer {
  std::vector<std::string> patterns;
  bool ignore_merges = false;
  bool add_bos = false;
  bool escape_spaces =
      false;  // SentencePiece's spaces and plain characters instead of the byte alphabet
};
std::optional<GgufPreTokenizer> gguf_pre_tokenizer(std::string_view name);

// "<0x0A>" -> 10.
std::optional<uint8_t> parse_byte_token(std::string_view text);

}  // namespace heddle::text
