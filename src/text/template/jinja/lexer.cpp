#include "text/template/jinja/lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "text/template/python_string.h"
#include "text/template/value_python.h"
#include "text/utf8.h"

namespace heddle::text::jinja {
namespace {

[[noreturn]] void fail_at(int line, std::string message) {
  throw PythonError{std::move(message), line};
}

// Line breaks become \n, and the last one of the source goes.
std::string normalize_newlines(std::string_view source, bool drop_last) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (drop_last && out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source, true)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_text();
    push(TokenKind::end);
    return std::move(tokens_);
  }

 private:
  enum class Tag { none, block, variable, comment, raw };

  char peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }
  bool looking_at(std::string_view text) const {
    return std::string_view(source_).substr(at_, text.size()) == text;
  }

  void push(TokenKind kind, std::string text = {}) {
    tokens_.push_back(Token{kind, std::move(text), Value(), line_});
  }

  // Moves to `end`, counting lines.
  void advance_to(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    line_starting_ = end > at_ ? source_[end - 1] == '\n' : line_starting_;
    at_ = end;
  }

  size_t skip_space_from(size_t position) const {
    while (position < source_.size()) {
      size_t next = position;
      if (!is_space(next_code_point(source_, next))) break;
      position = next;
    }
    return position;
  }

  // Text up to the next tag, then the tag.
  void read_text() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        tag = source_.size();
        break;
      }
      const char c = source_[tag + 1];
      if (c == '%' || c == '{' || c == '#') break;
      ++tag;
    }
    if (tag == source_.size()) {
      push(TokenKind::data, source_.substr(at_));
      at_ = tag;
      return;
    }
    const char mark = source_[tag + 1];
    emit_text(tag, tag + 2, mark == '{');
    const size_t sign = tag + 2;
    const bool has_sign = sign < source_.size() && (source_[sign] == '-' || source_[sign] == '+');
    const size_t body = sign + (has_sign ? 1 : 0);
    const size_t raw = mark == '%' ? raw_body(body) : 0;
    advance_to(raw ? raw : body);
    if (raw) {
      read_raw();
    } else if (mark == '#') {
      read_comment();
    } else {
      read_tag(mark == '%');
    }
  }

  // Emits the text [at_, end) before a tag whose sign, if it has one, stands at `sign`.
  void emit_text(size_t end, size_t sign, bool variable) {
    std::string_view text(source_.data() + at_, end - at_);
    const char c = sign < source_.size() ? source_[sign] : '\0';
    if (c == '-') {
      text = strip(text, false, true);
    } else if (c != '+' && !variable) {
      const size_t start = text.rfind('\n') + 1;  // npos + 1 is 0
      if ((start > 0 || line_starting_) && strip(text.substr(start), true, false).empty()) {
        text = text.substr(0, start);
      }
    }
    if (!text.empty()) push(TokenKind::data, std::string(text));
    advance_to(end);
  }

  // If the block tag whose inside starts at `position` is {% raw %}, the offset behind it, else 0.
  size_t raw_body(size_t position) const {
    const std::string_view source(source_);
    position = skip_space_from(position);
    if (source.substr(position, 3) != "raw") return 0;
    position = skip_space_from(position + 3);
    if (source.substr(position, 3) == "-%}") return skip_space_from(position + 3);
    return source.substr(position, 2) == "%}" ? position + 2 : 0;
  }

  // The offset behind the end tag `end` ("%}" or "#}") at `position`, signs and trimmed text
  // included; 0 if none is there.
  size_t tag_end(size_t position, std::string_view end) const {
    const std::string_view source(source_);
    if (source.substr(position, 1) == "-" && source.substr(position + 1, 2) == end) {
      return skip_space_from(position + 3);
    }
    if (source.substr(position, 1) == "+" && source.substr(position + 1, 2) == end) {
      return position + 3;
    }
    if (source.substr(position, 2) != end) return 0;
    position += 2;
    return position < source_.size() && source_[position] == '\n' && end != "}}" ? position + 1
                                                                                 : position;
  }

  void read_raw() {
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; ++tag) {
      size_t position = tag + 2;
      if (position < source_.size() && (source_[position] == '-' || source_[position] == '+')) {
        ++position;
      }
      position = skip_space_from(position);
      if (std::string_view(source_).substr(position, 6) != "endraw") continue;
      const size_t end = tag_end(skip_space_from(position + 6), "%}");
      if (end == 0) continue;
      emit_text(tag, tag + 2, false);
      advance_to(end);
      return;
    }
    if (at_ < source_.size()) fail_at(line_, "Missing end of raw directive");
  }

  void read_comment() {
    const int begin = line_;
    size_t close = source_.find("#}", at_);
    if (close == std::string::npos && at_ == source_.size()) return;  // as Jinja does
    if (close == std::string::npos) fail_at(begin, "Missing end of comment tag");
    if (close > at_ && (source_[close - 1] == '-' || source_[close - 1] == '+')) --close;
    advance_to(tag_end(close, "#}"));
  }

  void read_tag(bool block) {
    push(block ? TokenKind::block_begin : TokenKind::variable_begin);
    const std::string_view close = block ? "%}" : "}}";
    std::string open;  // brackets not yet closed
    while (true) {
      if (at_ >= source_.size()) return;  // the parser reports the missing end
      if (open.empty()) {
        const bool plus = !block && peek() == '+';
        const size_t end = plus ? 0 : tag_end(at_, close);
        if (end) {
          push(block ? TokenKind::block_end : TokenKind::variable_end);
          advance_to(end);
          return;
        }
      }
      read_token(open);
    }
  }

  void read_token(std::string& open) {
    const size_t space = skip_space_from(at_);
    if (space > at_) {
      advance_to(space);
      return;
    }
    const char c = peek();
    if (is_digit(c)) {
      read_number();
    } else if (c == '\'' || c == '"') {
      read_string();
    } else if (!read_name()) {
      read_operator(open);
    }
  }

  bool read_name() {
    size_t end = at_;
    while (end < source_.size()) {
      size_t next = end;
      const char32_t c = next_code_point(source_, next);
      if (c != '_' && !is_alnum(c)) break;
      end = next;
    }
    if (end == at_) return false;
    push(TokenKind::name, source_.substr(at_, end - at_));
    advance_to(end);
    return true;
  }

  // Digits with single underscores between them, from `position`; returns the offset behind.
  size_t digits_from(size_t position) const {
    size_t end = position;
    while (end < source_.size()) {
      if (is_digit(source_[end])) {
        ++end;
      } else if (source_[end] == '_' && end > position && end + 1 < source_.size() &&
                 is_digit(source_[end + 1])) {
        ++end;
      } else {
        break;
      }
    }
    return end;
  }

  size_t float_end() const {
    if (at_ > 0 && source_[at_ - 1] == '.') return at_;
    size_t end = digits_from(at_);
    bool is_float = false;
    if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
      end = digits_from(end + 1);
      is_float = true;
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
        ++exponent;
      }
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        end = digits_from(exponent);
        is_float = true;
      }
    }
    return is_float ? end : at_;
  }

  static std::string without_underscores(std::string text) {
    std::erase(text, '_');
    return text;
  }

  void read_number() {
    size_t end = float_end();
    Value number;
    if (end > at_) {
      const std::string text = without_underscores(source_.substr(at_, end - at_));
      number = Value(std::strtod(text.c_str(), nullptr));
    } else if (peek() == '0' && !is_digit(peek(1)) && read_based_integer(end, number)) {
    } else {
      end = digits_from(at_);
      if (peek() == '0') {  // a leading zero makes a number of zeros only
        end = at_;
        while (end < source_.size() && (source_[end] == '0' || source_[end] == '_')) ++end;
        while (source_[end - 1] == '_') --end;
      }
      const std::string text = without_underscores(source_.substr(at_, end - at_));
      int64_t integer = 0;
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), integer);
      if (parsed.ec != std::errc() && text.size() > 4300)
        fail_at(line_, "integer literal too long");
      number = parsed.ec == std::errc() ? Value(integer) : Value::big_integer(text);
    }
    push(TokenKind::number);
    tokens_.back().number = std::move(number);
    advance_to(end);
  }

  bool read_based_integer(size_t& end, Value& number) const {
    const char mark = static_cast<char>(peek(1) | 0x20);
    const int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (!base) return false;
    end = at_ + 2;
    std::string text;
    while (end < source_.size()) {
      const char c = source_[end];
      int64_t digit = 0;
      if (c != '_' && std::from_chars(&c, &c + 1, digit, base).ec != std::errc()) break;
      if (c != '_') text += c;
      ++end;
    }
    int64_t integer = 0;
    if (text.empty()) return false;
    if (std::from_chars(text.data(), text.data() + text.size(), integer, base).ec != std::errc()) {
      fail_at(line_, "integer literal too large");
    }
    number = Value(integer);
    return true;
  }

  void read_string() {
    const char quote = peek();
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_at(line_, std::string("unexpected char '") + quote + "'");
    push(TokenKind::string, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance_to(end + 1);
  }

  // Python's unicode-escape: unknown escapes stay as they are written.
  std::string unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size();) {
      if (text[i] != '\\' || i + 1 >= text.size()) {
        out += text[i++];
        continue;
      }
      const char c = text[i + 1];
      i += 2;
      constexpr std::string_view kNames = "\\'\"abfnrtv";
      constexpr std::string_view kBytes = "\\'\"\a\b\f\n\r\t\v";
      const size_t known = kNames.find(c);
      if (known != std::string_view::npos) {
        out += kBytes[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        append_hex(out, text, i, c == 'x' ? 2 : c == 'u' ? 4 : 8);
      } else if (c >= '0' && c <= '7') {
        char32_t code = static_cast<char32_t>(c - '0');
        for (int k = 0; k < 2 && i < text.size() && text[i] >= '0' && text[i] <= '7'; ++k) {
          code = code * 8 + static_cast<char32_t>(text[i++] - '0');
        }
        append_utf8(code, out);
      } else if (c == 'N') {
        fail_at(line_, "character names (\\N{...}) are not supported in strings");
      } else if (c != '\n') {
        out += '\\';
        --i;
        if (static_cast<unsigned char>(c) < 0x80) {
          out += c;
          ++i;
        } else {
          append_backslashed(out, next_code_point(text, i));
        }
      }
    }
    return out;
  }

  // A backslash before a character beyond ASCII leaves that character's escape as text, as Jinja
  // does.
  static void append_backslashed(std::string& out, char32_t c) {
    const auto code = static_cast<uint32_t>(c);
    if (code < 0x100) {
      out += fmt::format("x{:02x}", code);
    } else if (code < 0x10000) {
      out += fmt::format("u{:04x}", code);
    } else {
      out += fmt::format("U{:08x}", code);
    }
  }

  void append_hex(std::string& out, std::string_view text, size_t& i, size_t digits) const {
    uint32_t code = 0;
    const std::string_view hex = text.substr(i, digits);
    const auto end = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() != digits || end.ptr != hex.data() + digits || code > 0x10ffff ||
        (code >= 0xd800 && code < 0xe000)) {
      fail_at(line_, "bad \\x, \\u or \\U escape in a string");
    }
    i += digits;
    append_utf8(code, out);
  }

  void read_operator(std::string& open) {
    constexpr std::string_view kLong[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kShort = "+-/*%~[](){}><=.:|,;";
    std::string text(1, peek());
    for (const std::string_view candidate : kLong) {
      if (looking_at(candidate)) text = candidate;
    }
    if (text.size() == 1 && kShort.find(text[0]) == std::string_view::npos) {
      fail_at(line_, "unexpected char " + text);
    }
    const char c = text[0];
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_at(line_, "unexpected '" + text + "'");
      if (open.back() != c)
        fail_at(line_, "unexpected '" + text + "', expected '" + open.back() + "'");
      open.pop_back();
    }
    push(TokenKind::op, text);
    advance_to(at_ + text.size());
  }

  std::string source_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
};

}  // namespace

std::vector<Token> tokenize_template(std::string_view source) {
  if (valid_utf8_prefix(source) != std::ssize(source)) raise("template is not valid UTF-8");
  return Lexer(source).run();
}

}  // namespace heddle::text::jinja
