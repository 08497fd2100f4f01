#pragma once
// What happens to text between added tokens and merging: normalisers change it, pre-tokenizers cut
// it into words.
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer/regex.h"
#include "text/tokenizer/vocabulary.h"

namespace heddle::text {

class Normalizer {
 public:
  static Result<Normalizer> create(std::vector<NormalizerStep> steps);
  bool empty() const { return steps_.empty(); }
  // `text` must be valid UTF-8.
  std::string apply(std::string_view text) const;

 private:
  std::vector<NormalizerStep> steps_;
  std::vector<Regex> patterns_;  // one a step; unused where the step has none
};

class PreTokenizer {
 public:
  static Result<PreTokenizer> create(std::vector<PreTokenizerStep> steps);
  // Cuts `text` (valid UTF-8) into `words`. Where a step changes the text, `text` is replaced;
  // words are spans of what it is afterwards. at_start: the text is the beginning of what was given
  // to the tokenizer.
  void apply(std::string& text, bool at_start, std::vector<Span>& words) const;

 private:
  std::vector<PreTokenizerStep> steps_;
  std::vector<Regex> patterns_;
};

// The pieces of text[span] between and at `matches` (relative to the span), empty ones left out.
void split_by_matches(Span span, const std::vector<Span>& matches, SplitBehavior behavior,
                      bool invert, std::vector<Span>& pieces);

}  // namespace heddle::text
