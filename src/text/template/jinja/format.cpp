// str.format, as far as chat templates use it: {}, {0}, {name} and the doubled braces.
#include <algorithm>

#include "text/template/jinja/interpreter.h"

namespace heddle::text::jinja {
namespace {

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& in, const Arguments& arguments) : in_(in), arguments_(arguments) {}

  std::string format(std::string_view text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const char c = text[at];
      if (c != '{' && c != '}') {
        out += c;
        ++at;
        continue;
      }
      if (at + 1 < text.size() && text[at + 1] == c) {
        out += c;
        at += 2;
        continue;
      }
      if (c == '}') raise("Single '}}' encountered in format string");
      const size_t end = text.find('}', at);
      if (end == std::string_view::npos) raise("expected '}}' before end of string");
      out += in_.text_of(field(text.substr(at + 1, end - at - 1)));
      in_.check_size(static_cast<int64_t>(out.size()));
      at = end + 1;
    }
    in_.budget().use_bytes(static_cast<int64_t>(out.size()));
    return out;
  }

 private:
  const Value& field(std::string_view name) {
    if (name.find_first_of("!:.[{") != std::string_view::npos)
      raise("str.format: of fields only {{}}, {{0}} and {{name}} are supported, not '{{{}}}'",
            name);
    size_t index = next_;
    if (name.empty()) {
      if (numbered_)
        raise("cannot switch from manual field specification to automatic field numbering");
      automatic_ = true;
      ++next_;
    } else if (name.find_first_not_of("0123456789") == std::string_view::npos) {
      if (automatic_)
        raise("cannot switch from automatic field numbering to manual field specification");
      numbered_ = true;
      index = name.size() < 9 ? std::stoul(std::string(name)) : SIZE_MAX;
    } else {
      for (const auto& [known, value] : arguments_.named) {
        if (known == name) return value;
      }
      raise("no format argument named '{}'", name);
    }
    if (index >= arguments_.positional.size()) {
      raise("Replacement index {} out of range for positional args tuple", index);
    }
    return arguments_.positional[index];
  }

  Interpreter& in_;
  const Arguments& arguments_;
  size_t next_ = 0;
  bool automatic_ = false, numbered_ = false;
};

}  // namespace

std::string format_braces(Interpreter& in, const std::string& format, const Arguments& arguments) {
  return BraceFormatter(in, arguments).format(format);
}

}  // namespace heddle::text::jinja
