#pragma once
// Code points of UTF-8 text with Python's str semantics: lengths and positions count code points;
// classes and cases come from the Unicode tables. Bytes that are no UTF-8 count as one code point
// each. Internal to src/text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace heddle::text {

char32_t next_code_point(std::string_view text, size_t& position);  // moves position past it
int64_t code_point_count(std::string_view text);
bool is_ascii(std::string_view text);
// Byte offsets of the code points of `text`, and its size at the end.
std::vector<size_t> code_point_offsets(std::string_view text);

// Like std::string_view::find, in time linear in the sizes whatever the texts.
size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0);

bool is_space(char32_t c);  // str.isspace
bool is_alnum(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);
bool is_printable(char32_t c);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);    // str.title
std::string to_capital(std::string_view text);  // str.capitalize

// Whitespace (or, if `set` is given, its code points) stripped from either end.
std::string_view strip(std::string_view text, bool left, bool right,
                       const std::string* set = nullptr);
// str.splitlines: every Unicode line boundary ends a line.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends = false);

}  // namespace heddle::text
