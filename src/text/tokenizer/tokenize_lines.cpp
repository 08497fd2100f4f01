#include "text/tokenizer/tokenize_lines.h"

#include <istream>
#include <ostream>
#include <string>

#include "text/template/value.h"

namespace heddle::text {

Status tokenize_lines(const Tokenizer& tokenizer, const LinesOptions& options, std::istream& in,
                      std::ostream& out) {
  std::string line;
  std::vector<int32_t> ids;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const Value value = parse_json(line).value_or(Value());
    if (!options.decode) {
      if (!value.is_string()) return fail("line {}: expected a JSON string", number);
      out << '[';
      const char* separator = "";
      for (const int32_t id : tokenizer.encode(value.as_string(), options.encode)) {
        out << separator << id;
        separator = ",";
      }
      out << "]\n";
      continue;
    }
    if (!value.is_list()) return fail("line {}: expected a JSON list of token ids", number);
    ids.clear();
    for (const Value& id : value.items()) {
      if (!id.is_int() || id.as_int() < 0 || id.as_int() >= tokenizer.vocab_size()) {
        return fail("line {}: expected token ids from 0 to {}", number, tokenizer.vocab_size() - 1);
      }
      ids.push_back(static_cast<int32_t>(id.as_int()));
    }
    HEDDLE_TRY(const std::string text, to_json(tokenizer.decode(ids, options.decoding)));
    out << text << '\n';
  }
  return {};
}

}  // namespace heddle::text
