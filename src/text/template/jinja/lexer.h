#pragma once
// Tokens of a Jinja template, with the whitespace rules that transformers sets: a line break behind
// a block tag is dropped (trim_blocks), so is blank text before a block tag on its line
// (lstrip_blocks). Internal to text/template.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/template/value.h"

namespace heddle::text::jinja {

enum class TokenKind : uint8_t {
  data,            // text to print
  block_begin,     // {%
  block_end,       // %}
  variable_begin,  // {{
  variable_end,    // }}
  name,
  string,
  number,
  op,  // text: the operator
  end,
};

struct Token {
  TokenKind kind = TokenKind::end;
  std::string text;  // of data, name, string (unescaped), operator
  Value number;
  int line = 1;
};

// Ends with one `end` token. Raises PythonError (with its line) on what Jinja's lexer refuses.
std::vector<Token> tokenize_template(std::string_view source);

}  // namespace heddle::text::jinja
