#include "text/tokenizer/pre_tokenizer.h"

#include <algorithm>

namespace heddle::text {
namespace {

std::string_view part(std::string_view text, Span span) {
  return text.substr(static_cast<size_t>(span.begin), static_cast<size_t>(span.end - span.begin));
}

// Replaces every match; the replacement is plain text.
std::string replace_matches(std::string_view text, const Regex& pattern, std::string_view content) {
  std::vector<Span> matches;
  pattern.find_all(text, matches);
  std::string out;
  int64_t done = 0;
  for (const Span& match : matches) {
    out.append(part(text, {done, match.begin}));
    out.append(content);
    done = match.end;
  }
  out.append(text.substr(static_cast<size_t>(done)));
  return out;
}

struct Piece {
  Span span;
  bool match = false;
};

}  // namespace

Result<Normalizer> Normalizer::create(std::vector<NormalizerStep> steps) {
  Normalizer normalizer;
  for (const NormalizerStep& step : steps) {
    Regex regex;
    if (step.kind == NormalizerStep::Kind::kReplace && !step.pattern.empty()) {
      HEDDLE_TRY(regex, Regex::compile(step.pattern));
    }
    normalizer.patterns_.push_back(std::move(regex));
  }
  normalizer.steps_ = std::move(steps);
  return normalizer;
}

std::string Normalizer::apply(std::string_view input) const {
  std::string text(input);
  for (size_t i = 0; i < steps_.size(); ++i) {
    const NormalizerStep& step = steps_[i];
    switch (step.kind) {
      case NormalizerStep::Kind::kUnicode:
        text = normalize(text, step.form);
        break;
      case NormalizerStep::Kind::kLowercase:
        text = lowercase(text);
        break;
      case NormalizerStep::Kind::kStripMarks:
        text = strip_marks(text);
        break;
      case NormalizerStep::Kind::kStrip:
        if (step.right) text.resize(text.size() - static_cast<size_t>(trailing_white_space(text)));
        if (step.left) text.erase(0, static_cast<size_t>(leading_white_space(text)));
        break;
      case NormalizerStep::Kind::kReplace:
        text = step.pattern.empty() ? replace_all(text, step.literal, step.content)
                                    : replace_matches(text, patterns_[i], step.content);
        break;
      case NormalizerStep::Kind::kPrepend:
        if (!text.empty()) text.insert(0, step.content);
        break;
      case NormalizerStep::Kind::kAppend:
        if (!text.empty()) text.append(step.content);
        break;
    }
  }
  return text;
}

Result<PreTokenizer> PreTokenizer::create(std::vector<PreTokenizerStep> steps) {
  PreTokenizer pre;
  for (const PreTokenizerStep& step : steps) {
    Regex regex;
    if (step.kind == PreTokenizerStep::Kind::kSplit) {
      HEDDLE_TRY(regex, Regex::compile(step.pattern));
    } else if (step.kind == PreTokenizerStep::Kind::kMetaspace) {
      HEDDLE_TRY(regex, Regex::compile(Regex::quote(step.replacement)));
    }
    pre.patterns_.push_back(std::move(regex));
  }
  pre.steps_ = std::move(steps);
  return pre;
}

void split_by_matches(Span span, const std::vector<Span>& matches, SplitBehavior behavior,
                      bool invert, std::vector<Span>& pieces) {
  std::vector<Piece> parts;
  int64_t done = 0;
  const int64_t size = span.end - span.begin;
  for (const Span& match : matches) {
    if (match.begin > done) parts.push_back({{done, match.begin}, invert});
    if (match.end > match.begin) parts.push_back({match, !invert});
    done = match.end;
  }
  if (done < size) parts.push_back({{done, size}, invert});

  const size_t first = pieces.size();
  bool previous = false;
  const auto emit = [&](Span s) { pieces.push_back({span.begin + s.begin, span.begin + s.end}); };
  if (behavior == SplitBehavior::kMergedWithNext) {
    for (size_t i = parts.size(); i-- > 0;) {
      if (parts[i].match && !previous && pieces.size() > first) {
        pieces.back().begin = span.begin + parts[i].span.begin;
      } else {
        emit(parts[i].span);
      }
      previous = parts[i].match;
    }
    std::reverse(pieces.begin() + static_cast<std::ptrdiff_t>(first), pieces.end());
    return;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const Piece& piece = parts[i];
    const bool glue =
        (behavior == SplitBehavior::kMergedWithPrevious && piece.match && !previous) ||
        (behavior == SplitBehavior::kContiguous && i > 0 && piece.match == previous);
    if (glue && pieces.size() > first) {
      pieces.back().end = span.begin + piece.span.end;
    } else if (behavior != SplitBehavior::kRemoved || !piece.match) {
      emit(piece.span);
    }
    previous = piece.match;
  }
}

void PreTokenizer::apply(std::string& text, bool at_start, std::vector<Span>& words) const {
  words.clear();
  if (text.empty()) return;
  words.push_back({0, static_cast<int64_t>(text.size())});
  std::vector<Span> next;
  std::vector<Span> matches;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const PreTokenizerStep& step = steps_[i];
    if (step.kind != PreTokenizerStep::Kind::kSplit) {
      const bool metaspace = step.kind == PreTokenizerStep::Kind::kMetaspace;
      const std::string prefix = metaspace ? step.replacement : " ";
      std::string changed;
      next.clear();
      for (size_t w = 0; w < words.size(); ++w) {
        const auto begin = static_cast<int64_t>(changed.size());
        std::string word(part(text, words[w]));
        if (metaspace) word = replace_all(word, " ", step.replacement);
        const bool wanted =
            !metaspace || step.prepend == PrependScheme::kAlways ||
            (step.prepend == PrependScheme::kFirst && at_start && w == 0 && words[w].begin == 0);
        if (wanted && !word.starts_with(prefix)) changed += prefix;
        changed += word;
        next.push_back({begin, static_cast<int64_t>(changed.size())});
      }
      text = std::move(changed);
      words.swap(next);
      if (!metaspace || !step.split) continue;
    }
    const bool metaspace = step.kind == PreTokenizerStep::Kind::kMetaspace;
    next.clear();
    for (const Span& word : words) {
      matches.clear();
      patterns_[i].find_all(part(text, word), matches);
      split_by_matches(word, matches, metaspace ? SplitBehavior::kMergedWithNext : step.behavior,
                       !metaspace && step.invert, next);
    }
    words.swap(next);
  }
}

}  // namespace heddle::text
