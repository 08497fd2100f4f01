#include "text/tokenizer/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <unordered_map>

#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/bpe.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/unicode.h"

namespace heddle::text {
namespace {

constexpr size_t kCachedWord = 48;       // bytes; longer words repeat too rarely
constexpr size_t kCacheSlots = 8192;     // a power of two
constexpr size_t kCacheFromText = 2048;  // bytes of text that pay for setting the cache up
constexpr size_t kLongestWord =
    256u << 20;  // bytes merged at once; positions inside a word are 32 bits wide

// Words of one text that have been merged before: where their tokens stand in the output.
class WordCache {
 public:
  struct Slot {
    std::string word;
    int64_t begin = -1;
    int64_t count = 0;
  };
  void enable() { slots_.resize(kCacheSlots); }
  Slot* slot(std::string_view word) {
    if (slots_.empty() || word.size() > kCachedWord) return nullptr;
    return &slots_[std::hash<std::string_view>{}(word) & (kCacheSlots - 1)];
  }

 private:
  std::vector<Slot> slots_;
};

}  // namespace

struct Tokenizer::Impl {
  Vocabulary vocabulary;
  std::unique_ptr<const Bpe> bpe;
  AddedTokens raw_added{{}, AddedTokenOrder::kLongestFirst};
  AddedTokens normalized_added{{}, AddedTokenOrder::kLongestFirst};
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::string bytes;             // the bytes of all tokens, one after the other
  std::vector<int64_t> offsets;  // [tokens + 1]
  std::vector<uint8_t> special;
  std::vector<uint8_t> end_of_generation;
  std::unordered_map<std::string, int32_t> added_ids;
  int64_t strip_first = 0;
  std::vector<uint8_t> joined_to_spaces;  // bytes_before_marks
  mutable std::atomic<int64_t> encodings{0};
};

namespace {

// The bytes of one token inside a text.
std::string bytes_of(const Vocabulary& v, size_t id, bool added) {
  std::string text = v.tokens[id];
  if (added && v.decode_added_verbatim) return text;
  if (v.types[id] == TokenType::kByte) {
    if (const auto byte = parse_byte_token(text)) return std::string(1, static_cast<char>(*byte));
  }
  for (const DecoderStep& step : v.decoders) {
    switch (step.kind) {
      case DecoderStep::Kind::kByteLevel: {
        std::string raw;
        if (decode_byte_alphabet(text, raw)) text = std::move(raw);
        break;
      }
      case DecoderStep::Kind::kByteTokens:
        if (v.decode_added_verbatim && v.types[id] != TokenType::kByte) break;
        if (const auto byte = parse_byte_token(text))
          return std::string(1, static_cast<char>(*byte));
        break;
      case DecoderStep::Kind::kReplace:
        text = replace_all(text, step.pattern, step.content);
        break;
      case DecoderStep::Kind::kStripFirst:
        break;  // of the whole text, not of a token
    }
  }
  return text;
}

// The bytes after which some token has a space mark, [256]. After any other byte no merge crosses
// the start of a word: words can then be merged one by one (and remembered) with the same result as
// the whole text at once. Empty: the vocabulary is not of that kind.
std::vector<uint8_t> bytes_before_marks(const Vocabulary& v) {
  if (v.kind == VocabularyKind::kByteLevelBpe || v.ignore_merges) return {};
  std::vector<uint8_t> bytes(256, 0);
  bool mark = false;
  const auto look = [&](std::string_view text) {
    for (size_t at = text.find(kSpaceMark); at != std::string_view::npos;
         at = text.find(kSpaceMark, at + 1)) {
      if (at > 0 && !text.substr(0, at).ends_with(kSpaceMark))
        bytes[static_cast<uint8_t>(text[at - 1])] = 1;
    }
  };
  for (const std::string& token : v.tokens) {
    look(token);
    mark = mark || token == kSpaceMark;
  }
  for (const auto& [left, right] : v.merges) look(left + right);
  return mark ? bytes : std::vector<uint8_t>();
}

Status check_id(const Vocabulary& v, int32_t id, std::string_view what) {
  if (id < 0 || static_cast<size_t>(id) >= v.tokens.size()) {
    return fail("vocabulary: {} is token {}, but there are {} tokens", what, id, v.tokens.size());
  }
  return {};
}

Status check(const Vocabulary& v) {
  if (v.types.size() != v.tokens.size()) {
    return fail("vocabulary: {} types for {} tokens", v.types.size(), v.tokens.size());
  }
  for (const auto& [ids, what] : {std::pair{&v.eos, "eos"},
                                  {&v.end_of_generation, "end of generation"},
                                  {&v.prefix, "prefix"},
                                  {&v.suffix, "suffix"}}) {
    for (const int32_t id : *ids) HEDDLE_TRY_STATUS(check_id(v, id, what));
  }
  for (const auto& [id, what] : {std::pair{v.bos, "bos"},
                                 {v.unknown, "unknown"},
                                 {v.padding, "padding"},
                                 {v.end_of_turn, "end of turn"}}) {
    if (id) HEDDLE_TRY_STATUS(check_id(v, *id, what));
  }
  for (const AddedToken& token : v.added)
    HEDDLE_TRY_STATUS(check_id(v, token.id, "an added token"));
  return {};
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::create(Vocabulary v) {
  HEDDLE_TRY_STATUS(check(v));
  auto impl = std::make_unique<Impl>();
  HEDDLE_TRY(impl->bpe, make_bpe(v));
  HEDDLE_TRY(impl->normalizer, Normalizer::create(v.normalizers));
  HEDDLE_TRY(impl->pre_tokenizer, PreTokenizer::create(v.pre_tokenizers));

  const size_t n = v.tokens.size();
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  std::vector<uint8_t> added(n, 0);
  for (const AddedToken& token : v.added) {
    added[static_cast<size_t>(token.id)] = 1;
    impl->added_ids.emplace(token.text, token.id);
    if (token.normalized && !impl->normalizer.empty()) {
      normalized.push_back(token);
      normalized.back().text = impl->normalizer.apply(sanitize_utf8(token.text));
    } else {
      raw.push_back(token);
    }
  }
  impl->raw_added = AddedTokens(std::move(raw), v.added_order);
  impl->normalized_added = AddedTokens(std::move(normalized), v.added_order);

  impl->offsets.reserve(n + 1);
  impl->offsets.push_back(0);
  impl->special.resize(n);
  impl->end_of_generation.resize(n);
  for (size_t i = 0; i < n; ++i) {
    impl->bytes += bytes_of(v, i, added[i] != 0);
    impl->offsets.push_back(static_cast<int64_t>(impl->bytes.size()));
    impl->special[i] = v.types[i] == TokenType::kControl || v.types[i] == TokenType::kUnknown;
  }
  for (const int32_t id : v.end_of_generation) impl->end_of_generation[static_cast<size_t>(id)] = 1;
  for (const DecoderStep& step : v.decoders) {
    if (step.kind == DecoderStep::Kind::kStripFirst && step.content == " ")
      impl->strip_first += step.count;
  }
  impl->joined_to_spaces = bytes_before_marks(v);
  // What only merging needs is in the tables of `bpe` now.
  std::vector<std::pair<std::string, std::string>>().swap(v.merges);
  std::vector<float>().swap(v.scores);
  impl->bytes.shrink_to_fit();
  impl->vocabulary = std::move(v);
  return Tokenizer(std::move(impl));
}

// The state of one encode call.
class EncodeCall {
 public:
  EncodeCall(const Bpe& bpe, const AddedTokens& raw, const AddedTokens& normalized,
             const Normalizer& normalizer, const PreTokenizer& pre, bool space_after_special,
             const std::vector<uint8_t>& joined, bool parse_special, std::vector<int32_t>& out)
      : bpe_(bpe),
        raw_(raw),
        normalized_(normalized),
        normalizer_(normalizer),
        pre_(pre),
        space_after_special_(space_after_special),
        joined_(joined),
        parse_special_(parse_special),
        out_(out) {}

  void run(std::string_view text, std::span<const int64_t> marks, std::vector<int64_t>& counts) {
    if (text.size() >= kCacheFromText) cache_.enable();
    std::vector<AddedTokens::Match> matches;
    raw_.find(text, parse_special_, matches);
    int64_t done = 0;
    bool after_special = true;
    const auto boundary = [&](int64_t at) {
      for (; counts.size() < marks.size() && marks[counts.size()] <= at;)
        counts.push_back(marks[counts.size()] == at ? std::ssize(out_) : -1);
    };
    for (const AddedTokens::Match& match : matches) {
      if (match.begin > done) fragment(slice(text, done, match.begin), done == 0, after_special);
      boundary(match.begin);
      out_.push_back(match.id);
      after_special = true;
      done = match.end;
      boundary(done);
    }
    const auto size = static_cast<int64_t>(text.size());
    if (done < size) fragment(slice(text, done, size), done == 0, after_special);
    boundary(size);
    counts.resize(marks.size(), -1);
  }

 private:
  static std::string_view slice(std::string_view text, int64_t begin, int64_t end) {
    return text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }

  // Text between added tokens: its invalid bytes are words of their own, which no pattern ever
  // sees.
  void fragment(std::string_view text, bool at_start, bool after_special) {
    std::string spaced;
    if (space_after_special_ && after_special) {
      spaced.reserve(text.size() + 1);
      spaced += ' ';
      spaced += text;
      text = spaced;
    }
    while (!text.empty()) {
      const auto valid = static_cast<size_t>(valid_utf8_prefix(text));
      if (valid > 0) run_normalizer(text.substr(0, valid), at_start);
      text.remove_prefix(valid);
      at_start = false;
      const auto invalid = static_cast<size_t>(invalid_utf8_prefix(text));
      if (invalid > 0) merge(text.substr(0, invalid));
      text.remove_prefix(invalid);
    }
  }

  void run_normalizer(std::string_view text, bool at_start) {
    std::string normalized = normalizer_.empty() ? std::string(text) : normalizer_.apply(text);
    if (normalized_.empty()) {
      words(normalized, at_start);
      return;
    }
    std::vector<AddedTokens::Match> matches;
    normalized_.find(normalized, parse_special_, matches);
    int64_t done = 0;
    const auto between = [&](int64_t begin, int64_t end) {
      if (begin >= end) return;
      std::string piece(slice(normalized, begin, end));
      words(piece, at_start && begin == 0);
    };
    for (const AddedTokens::Match& match : matches) {
      between(done, match.begin);
      out_.push_back(match.id);
      done = match.end;
    }
    between(done, static_cast<int64_t>(normalized.size()));
  }

  void words(std::string& text, bool at_start) {
    pre_.apply(text, at_start, words_);
    for (const Span& word : words_) {
      std::string_view piece = slice(text, word.begin, word.end);
      while (!joined_.empty()) {
        const size_t next = next_word(piece);
        if (next >= piece.size()) break;
        merge_bounded(piece.substr(0, next));
        piece.remove_prefix(next);
      }
      merge_bounded(piece);
    }
  }

  // Where the next run of space marks begins after the word at the front.
  size_t next_word(std::string_view text) const {
    size_t at = 0;
    while (true) {
      while (text.substr(at).starts_with(kSpaceMark)) at += kSpaceMark.size();
      at = text.find(kSpaceMark, at);
      if (at == std::string_view::npos || !joined_[static_cast<uint8_t>(text[at - 1])]) return at;
    }
  }

  void merge_bounded(std::string_view word) {
    for (size_t at = 0; at < word.size(); at += kLongestWord) merge(word.substr(at, kLongestWord));
  }

  void merge(std::string_view word) {
    WordCache::Slot* slot = cache_.slot(word);
    if (slot != nullptr && slot->begin >= 0 && slot->word == word) {
      for (int64_t i = 0; i < slot->count; ++i)
        out_.push_back(out_[static_cast<size_t>(slot->begin + i)]);
      return;
    }
    const auto begin = static_cast<int64_t>(out_.size());
    bpe_.encode(word, scratch_, out_);
    if (slot != nullptr) {
      slot->word = word;
      slot->begin = begin;
      slot->count = static_cast<int64_t>(out_.size()) - begin;
    }
  }

  const Bpe& bpe_;
  const AddedTokens& raw_;
  const AddedTokens& normalized_;
  const Normalizer& normalizer_;
  const PreTokenizer& pre_;
  bool space_after_special_;
  const std::vector<uint8_t>& joined_;
  bool parse_special_;
  std::vector<int32_t>& out_;
  BpeScratch scratch_;
  WordCache cache_;
  std::vector<Span> words_;
};

int64_t Tokenizer::encodings() const { return impl_->encodings.load(); }

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int64_t> none;
  return encode(text, options, {}, none);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options,
                                       std::span<const int64_t> marks,
                                       std::vector<int64_t>& counts) const {
  ++impl_->encodings;
  counts.clear();
  const Vocabulary& v = impl_->vocabulary;
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 4);
  if (options.add_special) out = v.prefix;
  EncodeCall(*impl_->bpe, impl_->raw_added, impl_->normalized_added, impl_->normalizer,
             impl_->pre_tokenizer, v.space_after_special, impl_->joined_to_spaces,
             options.parse_special, out)
      .run(text, marks, counts);
  if (options.add_special) out.insert(out.end(), v.suffix.begin(), v.suffix.end());
  return out;
}

int64_t Tokenizer::leading_to_strip(const DecodeOptions& options) const {
  return options.text_start ? impl_->strip_first : 0;
}

std::string Tokenizer::decode_bytes(std::span<const int32_t> ids,
                                    const DecodeOptions& options) const {
  std::string out;
  int64_t strip = leading_to_strip(options);
  for (const int32_t id : ids) {
    if (options.skip_special && is_special(id)) continue;
    std::string_view bytes = token_bytes(id);
    while (strip > 0 && !bytes.empty()) {
      if (bytes[0] != ' ') {
        strip = 0;
        break;
      }
      bytes.remove_prefix(1);
      --strip;
    }
    out.append(bytes);
  }
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, const DecodeOptions& options) const {
  return sanitize_utf8(decode_bytes(ids, options));
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const auto i = static_cast<size_t>(id);
  const auto begin = static_cast<size_t>(impl_->offsets[i]);
  return std::string_view(impl_->bytes)
      .substr(begin, static_cast<size_t>(impl_->offsets[i + 1]) - begin);
}

std::optional<int32_t> Tokenizer::find(std::string_view text) const {
  const auto it = impl_->added_ids.find(std::string(text));
  if (it != impl_->added_ids.end()) return it->second;
  std::string raw;
  int32_t id = -1;
  if (impl_->vocabulary.kind != VocabularyKind::kByteLevelBpe) {
    id = impl_->bpe->token(text);
  } else if (decode_byte_alphabet(text, raw)) {
    id = impl_->bpe->token(raw);
  }
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->special[static_cast<size_t>(id)] != 0;
}
bool Tokenizer::is_end_of_generation(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->end_of_generation[static_cast<size_t>(id)] != 0;
}
int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(impl_->vocabulary.tokens.size());
}
std::optional<int32_t> Tokenizer::bos() const { return impl_->vocabulary.bos; }
std::optional<int32_t> Tokenizer::eos() const {
  const auto& eos = impl_->vocabulary.eos;
  return eos.empty() ? std::nullopt : std::optional<int32_t>(eos[0]);
}
const Vocabulary& Tokenizer::vocabulary() const { return impl_->vocabulary; }

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options)
    : tokenizer_(&tokenizer), options_(options), strip_(tokenizer.leading_to_strip(options)) {}

std::string StreamDecoder::push(int32_t id) {
  if (options_.skip_special && tokenizer_->is_special(id)) return {};
  std::string_view bytes = tokenizer_->token_bytes(id);
  while (strip_ > 0 && !bytes.empty()) {
    if (bytes[0] != ' ') {
      strip_ = 0;
      break;
    }
    bytes.remove_prefix(1);
    --strip_;
  }
  pending_ += bytes;
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const auto valid = static_cast<size_t>(valid_utf8_prefix(rest));
    out.append(rest.substr(0, valid));
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Utf8Step step = utf8_step(rest);
    if (step.truncated) break;  // the next token may complete it
    out.append(kReplacementCharacter);
    rest.remove_prefix(static_cast<size_t>(step.length));
  }
  pending_ = std::string(rest);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out = sanitize_utf8(pending_);
  pending_.clear();
  strip_ = tokenizer_->leading_to_strip(options_);
  return out;
}

}  // namespace heddle::text
