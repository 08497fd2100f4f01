#pragma once
// Merging the characters or bytes of one word into tokens. Both schemes take the best pair first
// and the leftmost of equals, in O(n log n) for a word of n symbols.
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer/vocabulary.h"

namespace heddle::text {

// What merging allocates; one per encode call, reused from word to word.
struct BpeScratch {
  struct Symbol {
    int32_t previous = -1;
    int32_t next = -1;
    int32_t id = -1;      // RankedBpe: the symbol; ScoredBpe: the token, -1 if the text is none
    uint32_t begin = 0;   // bytes of the word that it covers
    uint32_t length = 0;  // 0: merged away
  };
  struct Candidate {
    double key = 0;  // the highest goes first
    int32_t left = 0;
    uint32_t length = 0;  // of both together: a candidate whose parts have changed is stale
    int32_t merged = 0;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

class Bpe {
 public:
  virtual ~Bpe() = default;
  // Appends the tokens of one word. For byte-level vocabularies `word` is the bytes themselves; it
  // may hold invalid UTF-8, whose bytes are symbols of their own.
  virtual void encode(std::string_view word, BpeScratch& scratch,
                      std::vector<int32_t>& out) const = 0;
  // The token that the whole word is, or -1.
  virtual int32_t token(std::string_view word) const = 0;
};

// Error: a merge whose parts make no sense for the kind of vocabulary, or a vocabulary without
// tokens.
Result<std::unique_ptr<const Bpe>> make_bpe(const Vocabulary& vocabulary);

}  // namespace heddle::text
