#include "text/tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <unordered_map>

namespace heddle::text {
namespace {

// Texts by which tokens that end an answer are known: GGUF's keys hold one of each kind at most,
// and many files none.
constexpr std::array<std::string_view, 23> kEndOfGeneration = {"<|eot_id|>",
                                                               "<|im_end|>",
                                                               "<|end|>",
                                                               "<|return|>",
                                                               "<|call|>",
                                                               "<|flush|>",
                                                               "<|calls|>",
                                                               "<end_of_turn>",
                                                               "<|endoftext|>",
                                                               "</s>",
                                                               "<|eom_id|>",
                                                               "<EOT>",
                                                               "_<EOT>",
                                                               "[EOT]",
                                                               "[EOS]",
                                                               "<|end_of_text|>",
                                                               "<end_of_utterance>",
                                                               "<eos>",
                                                               "<turn|>",
                                                               "<|tool_response>",
                                                               "<｜end▁of▁sentence｜>",
                                                               "[e~[",
                                                               "<|eom|>"};
// The one among them that ends a turn, where the file does not say.
constexpr std::array<std::string_view, 11> kEndOfTurn = {
    "<|eot_id|>",        "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>",   "<EOT>",      "_<EOT>",  "[EOT]",         "<｜end▁of▁sentence｜>",
    "<end_of_utterance>"};
// Marks of fill-in-the-middle prompts: control tokens, whatever type the file gives them.
constexpr std::array<std::string_view, 28> kFillInTheMiddle = {
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>",    "<｜fim▁begin｜>",
    "<PRE>",          "▁<PRE>",       "<|code_prefix|>", "<|prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>",    "<｜fim▁hole｜>",
    "<SUF>",          "▁<SUF>",       "<|code_suffix|>", "<|suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>",    "<｜fim▁end｜>",
    "<MID>",          "▁<MID>",       "<|code_middle|>", "<|middle|>",
    "<|fim_pad|>",    "<fim-pad>",    "<fim_pad>",       "<PAD>"};
// Those that also end an answer: after them comes another file and not this one.
constexpr std::array<std::string_view, 11> kFillInTheMiddleEnd = {
    "<|fim_pad|>",   "<fim-pad>",  "<fim_pad>", "<PAD>",      "[PAD]",       "<|fim_repo|>",
    "<|repo_name|>", "<fim-repo>", "<REPO>",    "<reponame>", "<|file_sep|>"};
// The channel marks of the harmony format are shown, so they are not control tokens.
constexpr std::array<std::string_view, 4> kHarmonyMarks = {"<|channel|>", "<|message|>",
                                                           "<|start|>", "<|constrain|>"};

template <size_t N>
bool contains(const std::array<std::string_view, N>& list, std::string_view text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

class GgufReader {
 public:
  explicit GgufReader(GgufTokenizerMetadata metadata) : in_(std::move(metadata)) {}

  Result<Vocabulary> run() {
    HEDDLE_TRY_STATUS(kind());
    HEDDLE_TRY_STATUS(tokens());
    HEDDLE_TRY_STATUS(merges());
    HEDDLE_TRY_STATUS(special_ids());
    override_types();
    added_tokens();
    out_.chat_template = std::move(in_.chat_template);
    out_.named_templates = std::move(in_.named_templates);
    return std::move(out_);
  }

 private:
  Status kind() {
    if (in_.model == "llama") {
      out_.kind = VocabularyKind::kSentencePiece;
      escape_spaces();
      out_.space_after_special = in_.add_space_prefix.value_or(true);
      strip_decoded_space(out_.space_after_special);
      out_.pre_tokenizer = in_.pre;
      add_bos_ = true;
      return {};
    }
    if (in_.model != "gpt2" && in_.model != "gemma4") {
      return fail(
          "tokenizer.ggml.model is '{}', expected 'gpt2' (byte-level BPE), 'gemma4' (character "
          "BPE) or 'llama' "
          "(SentencePiece BPE)",
          in_.model);
    }
    out_.pre_tokenizer = in_.model == "gemma4" ? "gemma4" : in_.pre.empty() ? "default" : in_.pre;
    const std::optional<GgufPreTokenizer> pre = gguf_pre_tokenizer(out_.pre_tokenizer);
    if (!pre) {
      return fail("tokenizer.ggml.pre is '{}', a pre-tokenizer that is not known",
                  out_.pre_tokenizer);
    }
    out_.kind = pre->escape_spaces ? VocabularyKind::kCharacterBpe : VocabularyKind::kByteLevelBpe;
    if (pre->escape_spaces) {
      escape_spaces();
    } else {
      out_.decoders.push_back({});  // the byte alphabet
      // The unknown token of such files is often a real one, as the end of text: the peers never
      // put it into a text.
      out_.drop_unknown_bytes = true;
    }
    strip_decoded_space(in_.add_space_prefix.value_or(false));
    out_.ignore_merges = pre->ignore_merges;
    add_bos_ = pre->add_bos;
    for (const std::string& pattern : pre->patterns) {
      PreTokenizerStep step;
      step.pattern = pattern;
      out_.pre_tokenizers.push_back(std::move(step));
    }
    return {};
  }

  // SentencePiece's way with spaces, there and back.
  void escape_spaces() {
    NormalizerStep escape;
    escape.kind = NormalizerStep::Kind::kReplace;
    escape.literal = " ";
    escape.content = kSpaceMark;
    out_.normalizers.push_back(std::move(escape));
    DecoderStep bytes;
    bytes.kind = DecoderStep::Kind::kByteTokens;
    DecoderStep unescape;
    unescape.kind = DecoderStep::Kind::kReplace;
    unescape.pattern = kSpaceMark;
    unescape.content = " ";
    out_.decoders = {bytes, unescape};
  }
  // The space that encoding put before the text is no part of it.
  void strip_decoded_space(bool strip) {
    if (!strip) return;
    DecoderStep step;
    step.kind = DecoderStep::Kind::kStripFirst;
    step.content = " ";
    step.count = 1;
    out_.decoders.push_back(std::move(step));
  }

  Status tokens() {
    const size_t n = in_.tokens.size();
    if (n == 0) {
      return fail("tokenizer.ggml.tokens is empty or missing");
    }
    if (n > static_cast<size_t>(INT32_MAX)) {
      return fail("tokenizer.ggml.tokens has {} entries, more than ids can name", n);
    }
    if (!in_.scores.empty() && in_.scores.size() < n) {
      return fail("tokenizer.ggml.scores has {} entries for {} tokens", in_.scores.size(), n);
    }
    if (!in_.types.empty() && in_.types.size() < n) {
      return fail("tokenizer.ggml.token_type has {} entries for {} tokens", in_.types.size(), n);
    }
    if (out_.kind == VocabularyKind::kSentencePiece && in_.scores.empty()) {
      return fail(
          "tokenizer.ggml.scores is missing, and a SentencePiece vocabulary merges by score");
    }
    out_.tokens = std::move(in_.tokens);
    out_.scores = std::move(in_.scores);
    out_.types.assign(n, TokenType::kNormal);
    ids_.reserve(n);
    for (size_t i = 0; i < n; ++i) {
      if (out_.tokens[i].empty()) {
        out_.tokens[i] = fmt::format("[EMPTY_{}]", i);
      }
      ids_[out_.tokens[i]] = static_cast<int32_t>(i);
      if (!in_.types.empty()) {
        out_.types[i] = type_of(in_.types[i]);
      }
    }
    return {};
  }

  static TokenType type_of(int32_t type) {
    switch (type) {
      case 2:
        return TokenType::kUnknown;
      case 3:
        return TokenType::kControl;
      case 4:
        return TokenType::kUserDefined;
      case 5:
        return TokenType::kUnused;
      case 6:
        return TokenType::kByte;
      default:
        return TokenType::kNormal;
    }
  }

  Status merges() {
    if (out_.kind == VocabularyKind::kSentencePiece) {
      return {};
    }
    if (in_.merges.empty()) {
      return fail("tokenizer.ggml.merges is empty or missing, and a BPE vocabulary needs it");
    }
    out_.merges.reserve(in_.merges.size());
    for (size_t i = 0; i < in_.merges.size(); ++i) {
      const std::string& merge = in_.merges[i];
      const size_t space = merge.find(' ', 1);
      if (space == std::string::npos || space + 1 == merge.size()) {
        return fail("tokenizer.ggml.merges[{}] is '{}', expected two parts with a space between", i,
                    merge);
      }
      out_.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
    }
    return {};
  }

  // An id out of range is a mistake of the file; models with one are in use, so the default goes on
  // holding.
  std::optional<int32_t> id_or(std::optional<int64_t> id, std::optional<int32_t> fallback) const {
    const auto size = static_cast<int64_t>(out_.tokens.size());
    if (id && *id >= 0 && *id < size) return static_cast<int32_t>(*id);
    if (fallback && *fallback < size) return fallback;
    return std::nullopt;
  }

  std::optional<int32_t> find(std::string_view text) const {
    const auto it = ids_.find(text);
    return it == ids_.end() ? std::nullopt : std::optional<int32_t>(it->second);
  }

  Status special_ids() {
    const bool sentence_piece = out_.kind == VocabularyKind::kSentencePiece;
    const bool byte_level = out_.kind == VocabularyKind::kByteLevelBpe;
    const auto standard = [&](int32_t spm, int32_t bpe) -> std::optional<int32_t> {
      if (sentence_piece) return spm;
      if (byte_level) return bpe;
      return std::nullopt;
    };
    out_.bos = id_or(in_.bos, standard(1, 11));
    const std::optional<int32_t> eos = id_or(in_.eos, standard(2, 11));
    out_.unknown = id_or(in_.unknown, sentence_piece ? std::optional<int32_t>(0) : std::nullopt);
    out_.padding = id_or(in_.padding, std::nullopt);
    out_.end_of_turn = id_or(in_.eot, std::nullopt);
    for (const std::string_view text : kEndOfTurn) {
      if (!out_.end_of_turn) out_.end_of_turn = find(text);
    }
    if (eos) out_.eos.push_back(*eos);
    bool add_bos = in_.add_bos.value_or(add_bos_);
    if (out_.pre_tokenizer == "gemma4") add_bos = true;
    if (add_bos) {
      if (!out_.bos)
        return fail("tokenizer.ggml.add_bos_token is set, but the file has no bos token");
      out_.prefix.push_back(*out_.bos);
    }
    if (in_.add_eos.value_or(false)) {
      if (!eos) return fail("tokenizer.ggml.add_eos_token is set, but the file has no eos token");
      out_.suffix.push_back(*eos);
    }
    for (const std::optional<int32_t> id : {eos, out_.end_of_turn, id_or(in_.eom, std::nullopt)}) {
      if (id) end_(*id);
    }
    for (const std::string_view text : kEndOfGeneration) {
      if (const auto id = find(text)) end_(*id);
    }
    for (const std::string_view text : kFillInTheMiddleEnd) {
      if (const auto id = find(text)) end_(*id);
    }
    return {};
  }

  void end_(int32_t id) {
    auto& list = out_.end_of_generation;
    if (std::find(list.begin(), list.end(), id) == list.end()) list.push_back(id);
  }
  void not_end_(int32_t id, TokenType type) {
    std::erase(out_.end_of_generation, id);
    out_.types[static_cast<size_t>(id)] = type;
  }

  // Converters give the wrong type to some tokens that everybody treats as control tokens, and the
  // other way round.
  void override_types() {
    const auto control = [&](const auto& list) {
      for (const std::string_view text : list) {
        if (const auto id = find(text)) out_.types[static_cast<size_t>(*id)] = TokenType::kControl;
      }
    };
    control(kEndOfGeneration);
    control(kEndOfTurn);
    control(kFillInTheMiddle);
    control(kFillInTheMiddleEnd);
    for (const std::string_view text : kHarmonyMarks) {
      if (const auto id = find(text))
        out_.types[static_cast<size_t>(*id)] = TokenType::kUserDefined;
    }
    const bool call = find("<|call|>") && find("<|return|>");
    const bool calls = (find("<|call|>") || find("<|calls|>")) && find("<|flush|>");
    if (const auto end = find("<|end|>"); end && (call || calls)) {
      not_end_(*end, TokenType::kUserDefined);  // it ends a message there, not the answer
    }
    if (const auto s = find("</s>"); s && find("<|tool_response>")) {
      not_end_(*s, TokenType::kNormal);  // a tag of HTML there
    }
  }

  void added_tokens() {
    std::string name = in_.model_name;
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
      return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    });
    const bool phi3 =
        name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
    for (size_t i = 0; i < out_.tokens.size(); ++i) {
      const TokenType type = out_.types[i];
      if (type != TokenType::kControl && type != TokenType::kUserDefined &&
          type != TokenType::kUnknown) {
        continue;
      }
      AddedToken token;
      token.id = static_cast<int32_t>(i);
      token.text = out_.tokens[i];
      token.special = type != TokenType::kUserDefined;
      // The format has no place for this flag; the one model family whose tokenizer sets it is
      // known by name.
      token.rstrip =
          phi3 && token.text != "<unk>" && token.text != "<s>" && token.text != "<|endoftext|>";
      out_.added.push_back(std::move(token));
    }
  }

  GgufTokenizerMetadata in_;
  Vocabulary out_;
  bool add_bos_ = false;
  std::unordered_map<std::string_view, int32_t> ids_;  // of a repeated text, the last
};

}  // namespace

Result<Vocabulary> vocabulary_from_gguf(GgufTokenizerMetadata metadata) {
  return GgufReader(std::move(metadata)).run();
}

std::optional<uint8_t> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') {
    return std::nullopt;
  }
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    int digit = 0;
    if (c >= '0' && c <= '9') {
      digit = c - '0';
    } else if (c >= 'A' && c <= 'F') {
      digit = c - 'A' + 10;
    } else if (c >= 'a' && c <= 'f') {
      digit = c - 'a' + 10;
    } else {
      return std::nullopt;
    }
    value = value * 16 + digit;
  }
  return static_cast<uint8_t>(value);
}

}  // namespace heddle::text
