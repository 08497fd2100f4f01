#pragma once
// UTF-8: the one decoder and encoder of this program. Text is bytes in std::string_view; nothing
// here assumes that it is valid.
#include <cstdint>
#include <string>
#include <string_view>

namespace heddle::text {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// One step of decoding: `length` bytes (>= 1) at the front of the text. When they are no character
// (valid is false), `length` is the maximal subpart of an ill-formed sequence (Unicode 3.9, best
// practice for U+FFFD), and `truncated` says that the text ended inside a sequence that more bytes
// could complete.
struct Utf8Step {
  uint32_t code_point = 0;
  int32_t length = 1;
  bool valid = false;
  bool truncated = false;
};
Utf8Step utf8_step(std::string_view text);

// Bytes at the front of the text that are valid UTF-8; bytes up to the next valid character.
int64_t valid_utf8_prefix(std::string_view text);
int64_t invalid_utf8_prefix(std::string_view text);

void append_utf8(uint32_t code_point, std::string& out);
// Every maximal ill-formed subpart becomes one U+FFFD.
std::string sanitize_utf8(std::string_view text);

}  // namespace heddle::text
