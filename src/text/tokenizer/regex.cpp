#include "text/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>

#include "text/unicode.h"

namespace heddle::text {
namespace {

// Bounds on one match of hostile text: beyond them the caller falls back, see find_all.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr size_t kLargeJitStack = 64 << 20;

constexpr std::string_view kWhiteSpaceClass =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWordClass = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

struct MatchDataFree {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct MatchContextFree {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct JitStackFree {
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  // Empty when the pattern nests classes in a way that PCRE2 cannot express.
  std::string run() {
    std::string out;
    while (at_ < in_.size()) {
      if (in_[at_] == '\\') {
        out += escape(false);
      } else if (in_[at_] == '[') {
        out += char_class(0);
      } else {
        out += in_[at_++];
      }
    }
    return supported_ ? out : std::string();
  }

 private:
  // An escape sequence, at_ on its backslash. The caller says whether it stands inside a class.
  std::string escape(bool inside) {
    const char next = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    const auto as_class = [&](std::string_view members, bool negated) {
      at_ += 2;
      if (inside && !negated) return std::string(members);
      if (inside) {  // a negated class inside a class: PCRE2 has no way to write it but its own
                     // escape
        return std::string("\\") + next;
      }
      return std::string(negated ? "[^" : "[") + std::string(members) + "]";
    };
    switch (next) {
      case 's':
        return as_class(kWhiteSpaceClass, false);
      case 'S':
        return as_class(kWhiteSpaceClass, true);
      case 'w':
        return as_class(kWordClass, false);
      case 'W':
        return as_class(kWordClass, true);
      case 'h':
        return as_class("0-9A-Fa-f", false);
      default:
        break;
    }
    std::string out(in_.substr(at_, 2));
    at_ += out.size();
    return out;
  }

  // A class, at_ on its bracket. Intersections become look-aheads; nested unions are flattened into
  // their parent.
  std::string char_class(int depth) {
    ++at_;
    const bool negated = at_ < in_.size() && in_[at_] == '^';
    if (negated) ++at_;
    std::string members;
    std::string lookaheads;
    bool first = true;
    while (at_ < in_.size() && (in_[at_] != ']' || first)) {
      first = false;
      if (in_[at_] == '\\') {
        members += escape(true);
      } else if (in_[at_] == '[' && in_.substr(at_, 2) == "[:") {
        const size_t close = in_.find(":]", at_);
        const size_t end = close == std::string_view::npos ? in_.size() : close + 2;
        members += in_.substr(at_, end - at_);
        at_ = end;
      } else if (in_[at_] == '[' && depth < 8) {
        const std::string inner = char_class(depth + 1);
        if (inner.starts_with("[^") || !inner.starts_with("[")) supported_ = false;
        members += inner.substr(1, inner.size() - 2);
      } else if (in_.substr(at_, 2) == "&&") {
        at_ += 2;
        if (at_ < in_.size() && in_[at_] == '[' && depth < 8) {
          lookaheads += "(?=" + char_class(depth + 1) + ")";
        } else {
          members += "&&";
        }
      } else {
        members += in_[at_++];
      }
    }
    if (at_ < in_.size()) ++at_;
    if (lookaheads.empty()) {
      return (negated ? "[^" : "[") + members + "]";
    }
    const std::string both = lookaheads + "[" + members + "]";
    return negated ? "(?:(?!" + both + ")(?s:.))" : "(?:" + both + ")";
  }

  std::string_view in_;
  size_t at_ = 0;
  bool supported_ = true;
};

}  // namespace

std::string translate_pattern(std::string_view pattern) { return Translator(pattern).run(); }

struct Regex::Code {
  pcre2_code* code = nullptr;
  bool jit = false;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

Result<Regex> Regex::compile(std::string_view pattern) {
  if (static_cast<size_t>(valid_utf8_prefix(pattern)) != pattern.size()) {
    return fail("regular expression: expected UTF-8");
  }
  const std::string translated = translate_pattern(pattern);
  if (translated.empty() && !pattern.empty()) {
    return fail("regular expression '{}': this nesting of classes is not supported", pattern);
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, nullptr);
  if (code->code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return fail("regular expression '{}': {} at offset {} of its translation '{}'", pattern,
                reinterpret_cast<const char*>(message), offset, translated);
  }
  code->jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE) == 0;
  Regex regex;
  regex.code_ = std::move(code);
  return regex;
}

std::string Regex::quote(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    const bool plain = static_cast<uint8_t>(c) >= 0x80 || (c >= '0' && c <= '9') ||
                       (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == ' ' || c == '_';
    if (!plain && c >= 0x20) out += '\\';
    out += c;
  }
  return out;
}

void Regex::find_all(std::string_view text, std::vector<Span>& matches) const {
  const std::unique_ptr<pcre2_match_data, MatchDataFree> data(pcre2_match_data_create(1, nullptr));
  const std::unique_ptr<pcre2_match_context, MatchContextFree> context(
      pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(context.get(), kMatchLimit);
  std::unique_ptr<pcre2_jit_stack, JitStackFree> stack;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t at = 0;
  const uint32_t options = PCRE2_NO_UTF_CHECK;
  while (at <= text.size()) {
    const int count =
        pcre2_match(code_->code, subject, text.size(), at, options, data.get(), context.get());
    if (count == PCRE2_ERROR_JIT_STACKLIMIT && stack == nullptr) {
      // The default stack is small and on the machine's own; only a long backtracking match needs
      // more.
      stack.reset(pcre2_jit_stack_create(32 << 10, kLargeJitStack, nullptr));
      if (stack == nullptr) throw std::bad_alloc();
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      continue;
    }
    if (count == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
    if (count < 0) {
      return;
    }
    const PCRE2_SIZE* spans = pcre2_get_ovector_pointer(data.get());
    const size_t begin = spans[0];
    const size_t end = spans[1];
    if (begin < at || end < begin) {  // \K inside look-around can move a match backwards
      return;
    }
    matches.push_back({static_cast<int64_t>(begin), static_cast<int64_t>(end)});
    at = end;
    if (begin == end) {  // step over one character, or the empty match would come again
      if (at >= text.size()) return;
      at += static_cast<size_t>(utf8_step(text.substr(at)).length);
    }
  }
}

}  // namespace heddle::text
