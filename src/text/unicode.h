#pragma once
// The few Unicode facts that tokenizers need. Text is bytes in std::string_view; nothing here
// assumes that it is valid UTF-8.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/utf8.h"

namespace heddle::text {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, SentencePiece's space

// Property White_Space of the Unicode character database.
bool is_white_space(uint32_t code_point);
// Alphabetic, mark, decimal digit or connector: what \w means in the regular expressions of
// tokenizers.
bool is_word_character(uint32_t code_point);
// Bytes of white space at the end and at the front of valid UTF-8 text.
int64_t trailing_white_space(std::string_view text);
int64_t leading_white_space(std::string_view text);

std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

// The printable alphabet that byte-level BPE files write bytes in: byte -> code point (all below
// 0x144).
const std::array<uint16_t, 256>& byte_alphabet();
// The bytes that a text in that alphabet stands for; false when a character is not in the alphabet.
bool decode_byte_alphabet(std::string_view text, std::string& bytes);
std::string encode_byte_alphabet(std::string_view bytes);

enum class NormalizationForm { kNfc, kNfd, kNfkc, kNfkd };
// Valid UTF-8 in, normalised text out.
std::string normalize(std::string_view text, NormalizationForm form);
std::string lowercase(std::string_view text);
// Removes combining marks (category Mn, Mc, Me).
std::string strip_marks(std::string_view text);

}  // namespace heddle::text
