#include "text/tokenizer/tokenize_lines.h"

#include <istream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

namespace heddle::text {

using nlohmann::json;

Status tokenize_lines(const Tokenizer& tokenizer, const LinesOptions& options, std::istream& in,
                      std::ostream& out) {
  std::string line;
  std::vector<int32_t> ids;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const json value = json::parse(line, nullptr, false);
    if (!options.decode) {
      if (!value.is_string()) return fail("line {}: expected a JSON string", number);
      out << '[';
      const char* separator = "";
      for (const int32_t id :
           tokenizer.encode(value.get_ref<const std::string&>(), options.encode)) {
        out << separator << id;
        separator = ",";
      }
      out << "]\n";
      continue;
    }
    if (!value.is_array()) return fail("line {}: expected a JSON list of token ids", number);
    ids.clear();
    for (const json& id : value) {
      if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocab_size()) {
        return fail("line {}: expected token ids from 0 to {}", number, tokenizer.vocab_size() - 1);
      }
      ids.push_back(id.get<int32_t>());
    }
    out << json(tokenizer.decode(ids, options.decoding)).dump() << '\n';
  }
  return {};
}

}  // namespace heddle::text
