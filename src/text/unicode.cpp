#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace heddle::text {

bool is_white_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word_character(uint32_t c) {
  if (c < 0x80) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

int64_t trailing_white_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t start = end - 1;
    while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80 && end - start < 4) {
      --start;
    }
    const Utf8Step step = utf8_step(text.substr(start, end - start));
    if (!step.valid || !is_white_space(step.code_point)) {
      break;
    }
    end = start;
  }
  return static_cast<int64_t>(text.size() - end);
}

int64_t leading_white_space(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const Utf8Step step = utf8_step(text.substr(i));
    if (!step.valid || !is_white_space(step.code_point)) {
      break;
    }
    i += static_cast<size_t>(step.length);
  }
  return static_cast<int64_t>(i);
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  if (from.empty()) {
    return std::string(text);
  }
  out.reserve(text.size());
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    out.append(text.substr(done, at - done));
    out.append(to);
    done = at + from.size();
  }
  out.append(text.substr(done));
  return out;
}

const std::array<uint16_t, 256>& byte_alphabet() {
  // Printable Latin-1 characters stand for themselves; the other bytes take the code points from
  // 256 on, in order.
  static const std::array<uint16_t, 256> table = [] {
    std::array<uint16_t, 256> t{};
    uint16_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
      t[static_cast<size_t>(b)] = printable ? static_cast<uint16_t>(b) : next++;
    }
    return t;
  }();
  return table;
}

bool decode_byte_alphabet(std::string_view text, std::string& bytes) {
  static const std::array<int16_t, 0x144> inverse = [] {
    std::array<int16_t, 0x144> t{};
    t.fill(-1);
    for (int b = 0; b < 256; ++b) {
      t[byte_alphabet()[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
    }
    return t;
  }();
  bytes.clear();
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (!step.valid || step.code_point >= inverse.size() || inverse[step.code_point] < 0) {
      return false;
    }
    bytes.push_back(static_cast<char>(inverse[step.code_point]));
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return true;
}

std::string encode_byte_alphabet(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    append_utf8(byte_alphabet()[static_cast<uint8_t>(c)], out);
  }
  return out;
}

std::string normalize(std::string_view text, NormalizationForm form) {
  // ASCII is its own normal form: most text never reaches the library.
  if (std::all_of(text.begin(), text.end(),
                  [](char c) { return static_cast<uint8_t>(c) < 0x80; })) {
    return std::string(text);
  }
  int options = UTF8PROC_STABLE;
  switch (form) {
    case NormalizationForm::kNfc:
      options |= UTF8PROC_COMPOSE;
      break;
    case NormalizationForm::kNfd:
      options |= UTF8PROC_DECOMPOSE;
      break;
    case NormalizationForm::kNfkc:
      options |= UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
      break;
    case NormalizationForm::kNfkd:
      options |= UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
      break;
  }
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &result,
                                             static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(result, &std::free);
  if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  if (size < 0) {
    return std::string(text);
  }
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(size)};
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (!step.valid) {
      out.append(text.substr(0, static_cast<size_t>(step.length)));
    } else if (step.code_point < 0x80) {
      const char c = text[0];
      out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
    } else if (step.code_point == 0x130) {
      out.append("i\xCC\x87");  // the one character whose lower case is two
    } else {
      append_utf8(
          static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(step.code_point))),
          out);
    }
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return out;
}

std::string strip_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(step.code_point));
    const bool mark =
        step.valid && (category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                       category == UTF8PROC_CATEGORY_ME);
    if (!mark) {
      out.append(text.substr(0, static_cast<size_t>(step.length)));
    }
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return out;
}

}  // namespace heddle::text
