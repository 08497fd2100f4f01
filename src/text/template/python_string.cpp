#include "text/template/python_string.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

#include "text/utf8.h"

namespace heddle::text {
namespace {

// The code points whose upper case is several; utf8proc 2.8 maps one to one only. (Unicode
// SpecialCasing.txt)
struct LongUpper {
  char32_t from;
  const char* to;
  const char* title;
};
constexpr LongUpper kLongUpper[] = {
    {0x00df, "SS", "Ss"}, {0x0149, "ʼN", "ʼN"}, {0x01f0, "J̌", "J̌"},     {0x0390, "Ϊ́", "Ϊ́"},
    {0x03b0, "Ϋ́", "Ϋ́"},   {0x0587, "ԵՒ", "Եւ"}, {0x1e96, "H̱", "H̱"},     {0x1e97, "T̈", "T̈"},
    {0x1e98, "W̊", "W̊"},   {0x1e99, "Y̊", "Y̊"},   {0x1e9a, "Aʾ", "Aʾ"},   {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"}, {0xfb02, "FL", "Fl"}, {0xfb03, "FFI", "Ffi"}, {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"}, {0xfb06, "ST", "St"},
};

int category(char32_t c) {
  return c < 0x110000 ? utf8proc_category(static_cast<utf8proc_int32_t>(c)) : UTF8PROC_CATEGORY_CN;
}

const LongUpper* long_upper(char32_t c) {
  if (c < 0xdf) return nullptr;
  for (const LongUpper& entry : kLongUpper) {
    if (entry.from == c) return &entry;
  }
  return nullptr;
}

char32_t simple_upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t simple_lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_cased(char32_t c) { return is_upper(c) || is_lower(c) || is_title(c); }

bool is_case_ignorable(char32_t c) {
  const int kind = category(c);
  return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_ME ||
         kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_LM ||
         kind == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xb7 ||
         c == 0x2019;
}

// The lower case of text, one code point after another: a capital sigma at the end of a word has
// one of its own.
class Lowering {
 public:
  explicit Lowering(std::string_view text) : text_(text) {}

  // `end` is the offset behind c.
  void append(std::string& out, size_t end, char32_t c) {
    if (c == 0x3a3) {
      append_utf8(after_cased_ && !before_cased(end) ? 0x3c2 : 0x3c3, out);
    } else if (c == 0x130) {
      out += "i\xcc\x87";
    } else {
      append_utf8(simple_lower(c), out);
    }
    pass(c);
  }

  void pass(char32_t c) {
    if (!is_case_ignorable(c)) after_cased_ = is_cased(c);
  }

 private:
  bool before_cased(size_t end) const {
    while (end < text_.size()) {
      const char32_t c = next_code_point(text_, end);
      if (!is_case_ignorable(c)) return is_cased(c);
    }
    return false;
  }

  std::string_view text_;
  bool after_cased_ = false;
};

void append_upper(std::string& out, char32_t c) {
  if (const LongUpper* entry = long_upper(c)) {
    out += entry->to;
  } else {
    append_utf8(simple_upper(c), out);
  }
}

void append_title(std::string& out, char32_t c) {
  if (const LongUpper* entry = long_upper(c)) {
    out += entry->title;
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))), out);
  }
}

bool is_line_end(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

char32_t next_code_point(std::string_view text, size_t& position) {
  const Utf8Step step = utf8_step(text.substr(position));
  position += static_cast<size_t>(step.valid ? step.length : 1);
  return step.valid ? step.code_point : 0xfffd;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

int64_t code_point_count(std::string_view text) {
  int64_t count = 0;
  for (size_t i = 0; i < text.size(); ++count) next_code_point(text, i);
  return count;
}

std::vector<size_t> code_point_offsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size();) {
    offsets.push_back(i);
    next_code_point(text, i);
  }
  offsets.push_back(text.size());
  return offsets;
}

size_t find_text(std::string_view text, std::string_view wanted, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  const void* found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  return found ? static_cast<size_t>(static_cast<const char*>(found) - text.data())
               : std::string_view::npos;
}

bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_alnum(char32_t c) {
  const int kind = category(c);
  return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL ||
         kind == UTF8PROC_CATEGORY_LT || kind == UTF8PROC_CATEGORY_LM ||
         kind == UTF8PROC_CATEGORY_LO || kind == UTF8PROC_CATEGORY_ND ||
         kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_NO;
}

bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }
bool is_title(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

std::string to_upper(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) append_upper(out, next_code_point(text, i));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  Lowering lowering(text);
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, i);
    lowering.append(out, i, c);
  }
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  Lowering lowering(text);
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, i);
    if (inside) {
      lowering.append(out, i, c);
    } else {
      append_title(out, c);
      lowering.pass(c);
    }
    inside = is_cased(c);
  }
  return out;
}

std::string to_capital(std::string_view text) {
  std::string out;
  Lowering lowering(text);
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = next_code_point(text, i);
    if (first) {
      append_title(out, c);
      lowering.pass(c);
    } else {
      lowering.append(out, i, c);
    }
  }
  return out;
}

std::string_view strip(std::string_view text, bool left, bool right, const std::string* set) {
  const auto stripped = [&](std::string_view one, char32_t c) {
    return set ? set->find(one) != std::string::npos : is_space(c);
  };
  while (left && !text.empty()) {
    size_t next = 0;
    const char32_t c = next_code_point(text, next);
    if (!stripped(text.substr(0, next), c)) break;
    text.remove_prefix(next);
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    for (int back = 0; back < 3 && begin > 0; ++back, --begin) {
      if ((static_cast<unsigned char>(text[begin]) & 0xc0) != 0x80) break;
    }
    size_t next = begin;
    char32_t c = next_code_point(text, next);
    if (next != text.size()) {  // stray continuation bytes
      begin = text.size() - 1;
      c = 0xfffd;
    }
    if (!stripped(text.substr(begin), c)) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    const char32_t c = next_code_point(text, i);
    if (!is_line_end(c)) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(begin, (keep_ends ? i : at) - begin));
    begin = i;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

}  // namespace heddle::text
