// The pre-tokenizers that GGUF files name. A name stands for regular expressions of the model's own
// tokenizer files; they are data, and are written here as those files have them where PCRE2 can say
// so.
#include <string>

#include "text/tokenizer/vocabulary.h"

namespace heddle::text {
namespace {

// Contractions in either case, as ASCII letters only: a case-insensitive group would also match
// U+017F for s.
#define CONTRACTIONS R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]))"
#define WORDS_AND_SPACE(letters, digits, not_symbols, newlines)          \
  R"(|[^\r\n\p{L}\p{N}]?)" letters "|" digits "| ?" not_symbols newlines \
  R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define CASED(suffix)                                                                         \
  R"([^\r\n\p{L}\p{N}]?)" UPPER "*" LOWER "+" suffix R"(|[^\r\n\p{L}\p{N}]?)" UPPER "+" LOWER \
  "*" suffix

constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    CONTRACTIONS WORDS_AND_SPACE(R"(\p{L}+)", R"(\p{N}{1,3})", R"([^\s\p{L}\p{N}]+)", R"([\r\n]*)");
constexpr const char* kQwen2 =
    CONTRACTIONS WORDS_AND_SPACE(R"(\p{L}+)", R"(\p{N})", R"([^\s\p{L}\p{N}]+)", R"([\r\n]*)");
constexpr const char* kQwen35 = CONTRACTIONS WORDS_AND_SPACE(
    R"([\p{L}\p{M}]+)", R"(\p{N})", R"([^\s\p{L}\p{M}\p{N}]+)", R"([\r\n]*)");
constexpr const char* kO200k =
    CASED(CONTRACTIONS "?") R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken =
    CASED("") R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Letters with case, as the file lists them: not the property, whose members depend on the version
// of Unicode.
constexpr const char* kDeepseekLetters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})"
    R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})"
    R"(\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"
    R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
    R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-)"
    R"(\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})"
    R"(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC})"
    R"(\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128})"
    R"(\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E})"
    R"(\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3})"
    R"(\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E})"
    R"(\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A})"
    R"(\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-)"
    R"(\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";
constexpr const char* kNewlines = R"([^\n]+|[\n]+)";
constexpr const char* kKimi =
    R"(\p{Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*)"
    R"((?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+)" CONTRACTIONS
    "?"
    R"(|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+)"
    R"((?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*)" CONTRACTIONS
    "?"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Entry {
  std::string_view names;  // separated by one space
  GgufPreTokenizer pre;
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> table = {
      {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
       {{kLlama3}, true, true}},
      {"dbrx smaug-bpe chatglm-bpe", {{kLlama3}}},
      {"glm4 glm5", {{kLlama3}, true}},
      {"minicpm5",
       {{R"(\p{N}{1,3})", CONTRACTIONS WORDS_AND_SPACE(R"(\p{L}+)", R"(\p{N}+)",
                                                       R"([^\s\p{L}\p{N}]+)", R"([\r\n]*)")},
        true}},
      {"qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
       {{kQwen2}}},
      {"qwen35", {{kQwen35}}},
      {"gpt-2 phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling exaone4",
       {{kGpt2}}},
      {"starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
       {{R"(\p{N})", kGpt2}}},
      {"falcon", {{R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, R"([0-9][0-9][0-9])"}}},
      {"default", {{R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"}}},
      {"deepseek-llm",
       {{R"([\r\n])", kDeepseekLetters, R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)", R"(\s+$)",
         R"([一-龥ࠀ-一가-퟿]+)", R"(\p{N}+)"}}},
      {"deepseek-coder",
       {{R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", R"([一-龥ࠀ-一가-퟿]+)", R"(\p{N})"}}},
      {"deepseek-v3 hunyuan-dense joyai-llm hy_v4",
       {{R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)", kDeepseekWords}}},
      {"gpt-4o llama4 kanana2 talkie minimax-m2", {{kO200k}}},
      {"tiny_aya cohere2moe", {{R"(\d{1,3}(?=(?:\d{3})*\b))", kO200k}}},
      {"tekken", {{kTekken}, true}},
      {"kimi-k2", {{kKimi}}},
      {"poro-chat bloom gpt3-finnish", {{R"( ?[^(\s|.,!?…。，、।۔،)]+)"}}},
      {"viking", {{R"( ?[^(\s|.,!?…。，、।۔،)]+)", R"(\p{N})"}}},
      {"superbpe", {{R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"}}},
      {"bailingmoe bailingmoe2 llada-moe",
       {{R"('(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*)"
         R"(|\s*[\r\n]|\s+(?!\S)|\s+)"}}},
      {"seed-coder",
       {{CONTRACTIONS WORDS_AND_SPACE(R"(\p{L}+)", R"(\p{N})", R"([^\s\p{L}\p{N}\r\n]+)", "")}}},
      {"exaone-moe",
       {{CONTRACTIONS
         R"(|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n])"
         R"(|\s+(?!\S)|\s+)"}}},
      {"laguna", {{kNewlines, kQwen2}}},
      {"gemma4", {{kNewlines}, false, true, true}},
  };
  return table;
}

#undef CASED
#undef LOWER
#undef UPPER
#undef WORDS_AND_SPACE
#undef CONTRACTIONS

}  // namespace

std::optional<GgufPreTokenizer> gguf_pre_tokenizer(std::string_view name) {
  for (const Entry& entry : entries()) {
    for (std::string_view rest = entry.names; !rest.empty();) {
      const size_t space = std::min(rest.find(' '), rest.size());
      if (rest.substr(0, space) == name) {
        return entry.pre;
      }
      rest.remove_prefix(std::min(space + 1, rest.size()));
    }
  }
  return std::nullopt;
}

}  // namespace heddle::text
