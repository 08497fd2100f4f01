#pragma once
// The regular expressions of tokenizer files: written for Rust's and Oniguruma's dialects, run by
// PCRE2 with JIT.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace heddle::text {

struct Span {
  int64_t begin = 0;
  int64_t end = 0;
};

// Immutable and thread-safe: what a match writes lives on the caller's side of each call.
class Regex {
 public:
  // Differences of the dialects that matter are translated: \s is the property White_Space, \w is
  // Alphabetic, marks, decimal digits and connectors, \h is a hexadecimal digit, and [A&&[^B]]
  // intersects classes. Error: the library's message and the offset, for a pattern that it refuses.
  static Result<Regex> compile(std::string_view pattern);
  // A pattern that matches exactly this text.
  static std::string quote(std::string_view literal);

  // All matches from left to right, not overlapping; empty ones are included. `text` must be valid
  // UTF-8, and is all that look-around sees. When the library gives up (its limits bound time and
  // memory on hostile text), the matches end there.
  void find_all(std::string_view text, std::vector<Span>& matches) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

// Pattern in PCRE2's dialect; exposed for tests.
std::string translate_pattern(std::string_view pattern);

}  // namespace heddle::text
