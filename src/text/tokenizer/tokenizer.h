#pragma once
// Text to tokens and back.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer/vocabulary.h"

namespace heddle::text {

struct EncodeOptions {
  bool add_special =
      true;  // what the model puts around every text: usually bos before it, or nothing
  bool parse_special =
      true;  // control tokens written in the text are those tokens; false for untrusted text
};

struct DecodeOptions {
  bool skip_special = true;  // control tokens give no text
  // The ids begin a text. False for the continuation of one: SentencePiece vocabularies drop the
  // first space of a text, and a continuation may begin with a space that counts.
  bool text_start = true;
};

// Immutable; every const function may be called from any number of threads at once.
class Tokenizer {
 public:
  // Errors: a pattern that does not compile, merges that contradict the kind, ids out of range.
  static Result<Tokenizer> create(Vocabulary vocabulary);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Any bytes will do: what is not UTF-8 becomes byte tokens. Takes O(n log n) whatever the text
  // is.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // The same, and for each of the bytes `marks` (ascending) how many tokens stand before it; -1
  // unless the text up to there gives exactly those. Known at the sides of added tokens and at the
  // end: elsewhere what follows may reach back.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options,
                              std::span<const int64_t> marks, std::vector<int64_t>& counts) const;
  // Encodings so far, for tests that count the work of a request.
  int64_t encodings() const;
  // Always valid UTF-8: every maximal ill-formed sequence of bytes becomes U+FFFD. Ids out of range
  // give no text.
  std::string decode(std::span<const int32_t> ids, const DecodeOptions& options = {}) const;
  // The same without the repair: the exact bytes.
  std::string decode_bytes(std::span<const int32_t> ids, const DecodeOptions& options = {}) const;

  // The bytes that a token stands for inside a text; empty for an id out of range.
  std::string_view token_bytes(int32_t id) const;
  // The token that the vocabulary writes as this text (a control token, say).
  std::optional<int32_t> find(std::string_view text) const;
  bool is_special(int32_t id) const;  // control and unknown tokens: no part of the text
  bool is_end_of_generation(int32_t id) const;
  int64_t vocab_size() const;
  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;
  const Vocabulary& vocabulary() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  int64_t leading_to_strip(const DecodeOptions& options) const;
  std::unique_ptr<const Impl> impl_;
};

// Decodes tokens as they come. Each piece is valid UTF-8, and all pieces with flush() at the end
// are what decode() gives for all the ids. The tokenizer must outlive it. One thread at a time.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options = {});

  // The text that is certain after this token; empty while a character is incomplete.
  std::string push(int32_t id);
  // What is left: U+FFFD for an incomplete character. The decoder begins anew after it.
  std::string flush();
  // Bytes held back, at most three.
  std::string_view pending() const { return pending_; }

 private:
  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  std::string pending_;
  int64_t strip_ = 0;
};

}  // namespace heddle::text
