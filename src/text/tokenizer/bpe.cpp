#include "text/tokenizer/bpe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <string>

#include "base/hash.h"
#include "text/unicode.h"

namespace heddle::text {
namespace {

using Symbol = BpeScratch::Symbol;
using Candidate = BpeScratch::Candidate;

bool worse(const Candidate& a, const Candidate& b) {
  return a.key < b.key || (a.key == b.key && a.left > b.left);
}

// Up to this many symbols, looking at all pairs at every step beats a heap.
constexpr size_t kShortWord = 24;

// (left, right) -> (rank, joint symbol): open addressing, since it is asked several times for every
// byte of text.
class PairTable {
 public:
  struct Entry {
    uint64_t key = kEmpty;
    int32_t rank = 0;
    int32_t merged = 0;
  };

  explicit PairTable(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    entries_.resize(size);
    mask_ = size - 1;
  }
  // The first of equal pairs stays: it has the better rank.
  void insert(int32_t left, int32_t right, int32_t rank, int32_t merged) {
    const uint64_t key = make_key(left, right);
    size_t i = hash(key) & mask_;
    while (entries_[i].key != kEmpty) {
      if (entries_[i].key == key) return;
      i = (i + 1) & mask_;
    }
    entries_[i] = {key, rank, merged};
  }
  const Entry* find(int32_t left, int32_t right) const {
    const uint64_t key = make_key(left, right);
    for (size_t i = hash(key) & mask_; entries_[i].key != kEmpty; i = (i + 1) & mask_) {
      if (entries_[i].key == key) return &entries_[i];
    }
    return nullptr;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static uint64_t make_key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  static size_t hash(uint64_t x) {
    x *= 0x9E3779B97F4A7C15ull;
    return static_cast<size_t>(x ^ (x >> 32));
  }
  std::vector<Entry> entries_;
  size_t mask_ = 0;
};

// Different texts, numbered in the order in which they came. One block of text and open addressing:
// a vocabulary of 262,144 tokens takes 8 MB and not 30.
class TextTable {
 public:
  explicit TextTable(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    slots_.resize(size);
    begins_.reserve(count + 1);
  }
  int32_t size() const { return static_cast<int32_t>(begins_.size()) - 1; }
  int32_t find(std::string_view text) const {  // -1: not here
    return slots_[slot(text, hash(text))].id;
  }
  int32_t intern(std::string_view text) {
    if ((begins_.size() + 1) * 4 > slots_.size() * 3) grow();
    const uint32_t h = hash(text);
    Slot& slot_of = slots_[slot(text, h)];
    if (slot_of.id < 0) {
      slot_of = {h, size()};
      texts_ += text;
      begins_.push_back(texts_.size());
    }
    return slot_of.id;
  }
  void shrink() {
    texts_.shrink_to_fit();
    begins_.shrink_to_fit();
  }

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;
  };
  static uint32_t hash(std::string_view text) {
    return static_cast<uint32_t>(hash64(std::as_bytes(std::span(text))));
  }
  std::string_view text(int32_t id) const {
    const size_t begin = begins_[static_cast<size_t>(id)];
    return std::string_view(texts_).substr(begin, begins_[static_cast<size_t>(id) + 1] - begin);
  }
  size_t slot(std::string_view wanted, uint32_t h) const {
    const size_t mask = slots_.size() - 1;
    size_t i = h & mask;
    while (slots_[i].id >= 0 && (slots_[i].hash != h || text(slots_[i].id) != wanted))
      i = (i + 1) & mask;
    return i;
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    const size_t mask = slots_.size() - 1;
    for (const Slot& moved : old) {
      if (moved.id < 0) continue;
      size_t i = moved.hash & mask;
      while (slots_[i].id >= 0) i = (i + 1) & mask;
      slots_[i] = moved;
    }
  }

  std::string texts_;
  std::vector<size_t> begins_ = {0};
  std::vector<Slot> slots_;  // a power of two of them
};

std::array<int32_t, 256> byte_tokens(const std::vector<std::string>& tokens) {
  std::array<int32_t, 256> ids;
  ids.fill(-1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (const auto byte = parse_byte_token(tokens[i])) ids[*byte] = static_cast<int32_t>(i);
  }
  return ids;
}

void unlink_next(std::vector<Symbol>& symbols, int32_t left) {
  Symbol& l = symbols[static_cast<size_t>(left)];
  Symbol& r = symbols[static_cast<size_t>(l.next)];
  l.length += r.length;
  r.length = 0;
  l.next = r.next;
  if (r.next >= 0) symbols[static_cast<size_t>(r.next)].previous = left;
}

void link(std::vector<Symbol>& symbols) {
  const auto n = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < n; ++i) {
    symbols[static_cast<size_t>(i)].previous = i - 1;
    symbols[static_cast<size_t>(i)].next = i + 1 < n ? i + 1 : -1;
  }
}

// Merges until no pair is left. propose(left, right, candidate&) fills key and merged, or says that
// the two don't merge.
template <class Propose>
void merge_with_heap(BpeScratch& s, const Propose& propose) {
  s.heap.clear();
  const auto consider = [&](int32_t left) {
    if (left < 0) return false;
    const Symbol& l = s.symbols[static_cast<size_t>(left)];
    if (l.next < 0) return false;
    const Symbol& r = s.symbols[static_cast<size_t>(l.next)];
    Candidate c;
    if (!propose(l, r, c)) return false;
    c.left = left;
    c.length = l.length + r.length;
    s.heap.push_back(c);
    return true;
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(s.symbols.size()); ++i) consider(i);
  std::make_heap(s.heap.begin(), s.heap.end(), worse);
  while (!s.heap.empty()) {
    std::pop_heap(s.heap.begin(), s.heap.end(), worse);
    const Candidate c = s.heap.back();
    s.heap.pop_back();
    Symbol& l = s.symbols[static_cast<size_t>(c.left)];
    if (l.length == 0 || l.next < 0) continue;
    const Symbol& r = s.symbols[static_cast<size_t>(l.next)];
    Candidate now;
    if (l.length + r.length != c.length || !propose(l, r, now) || now.merged != c.merged) continue;
    unlink_next(s.symbols, c.left);
    l.id = c.merged;
    if (consider(l.previous)) std::push_heap(s.heap.begin(), s.heap.end(), worse);
    if (consider(c.left)) std::push_heap(s.heap.begin(), s.heap.end(), worse);
  }
}

class RankedBpe final : public Bpe {
 public:
  static Result<std::unique_ptr<const Bpe>> create(const Vocabulary& v) {
    std::unique_ptr<RankedBpe> bpe(new RankedBpe(v));
    HEDDLE_TRY_STATUS(bpe->load(v));
    return std::unique_ptr<const Bpe>(std::move(bpe));
  }

  int32_t token(std::string_view word) const override {
    const int32_t symbol = symbols_.find(word);
    return symbol < 0 ? -1 : token_of_[static_cast<size_t>(symbol)];
  }

  void encode(std::string_view word, BpeScratch& s, std::vector<int32_t>& out) const override {
    if (ignore_merges_) {
      const int32_t whole = token(word);
      if (whole >= 0) {
        out.push_back(whole);
        return;
      }
    }
    s.symbols.clear();
    byte_level_ ? split_bytes(word, s) : split_characters(word, s);
    link(s.symbols);
    if (s.symbols.size() <= kShortWord) {
      merge_short(s);
    } else {
      merge_with_heap(s, [&](const Symbol& l, const Symbol& r, Candidate& c) {
        const PairTable::Entry* pair = pairs_.find(l.id, r.id);
        if (pair == nullptr) return false;
        c.key = -static_cast<double>(pair->rank);
        c.merged = pair->merged;
        return true;
      });
    }
    emit(word, s, out);
  }

 private:
  explicit RankedBpe(const Vocabulary& v)
      : byte_level_(v.kind == VocabularyKind::kByteLevelBpe),
        ignore_merges_(v.ignore_merges),
        drop_first_(v.drop_unknown_first),
        fuse_unknown_(v.fuse_unknown),
        unknown_(v.drop_unknown_bytes ? -1 : v.unknown.value_or(-1)),
        symbols_(v.tokens.size() + 256),
        pairs_(v.merges.size()) {}

  // The text that merging works on: bytes for byte-level vocabularies. False: no word can ever be
  // it.
  bool working_text(const std::string& text, std::string& out) const {
    if (byte_level_) return decode_byte_alphabet(text, out);
    out = text;
    return true;
  }

  int32_t intern(std::string_view text) {
    const int32_t id = symbols_.intern(text);
    if (id == static_cast<int32_t>(token_of_.size())) token_of_.push_back(-1);
    return id;
  }

  Status load(const Vocabulary& v) {
    token_of_.reserve(v.tokens.size() + 256);
    std::string text;
    for (size_t i = 0; i < v.tokens.size(); ++i) {
      if (!v.tokens[i].empty() && working_text(v.tokens[i], text) && !text.empty()) {
        token_of_[static_cast<size_t>(intern(text))] = static_cast<int32_t>(i);
      }
    }
    if (!byte_level_ && v.byte_fallback) {
      byte_ids_ = byte_tokens(v.tokens);
    } else {
      byte_ids_.fill(-1);
    }
    for (int b = 0; b < 256; ++b) {
      const char c = static_cast<char>(b);
      byte_symbols_[static_cast<size_t>(b)] = byte_level_ ? intern(std::string_view(&c, 1)) : -1;
    }
    std::string left;
    std::string right;
    std::string joint;
    for (size_t i = 0; i < v.merges.size(); ++i) {
      if (!working_text(v.merges[i].first, left) || !working_text(v.merges[i].second, right)) {
        return fail("merge {} ('{}' and '{}'): a character outside the byte alphabet", i,
                    v.merges[i].first, v.merges[i].second);
      }
      const int32_t l = intern(left);
      const int32_t r = intern(right);
      joint = left;
      joint += right;
      pairs_.insert(l, r, static_cast<int32_t>(i), intern(joint));
    }
    symbols_.shrink();
    return {};
  }

  void split_bytes(std::string_view word, BpeScratch& s) const {
    for (size_t i = 0; i < word.size(); ++i) {
      const int32_t id = byte_symbols_[static_cast<uint8_t>(word[i])];
      if (drop_first_ && unknown_ < 0 && token_of_[static_cast<size_t>(id)] < 0) continue;
      s.symbols.push_back({-1, -1, id, static_cast<uint32_t>(i), 1});
    }
  }

  void split_characters(std::string_view word, BpeScratch& s) const {
    for (size_t i = 0; i < word.size();) {
      const Utf8Step step = utf8_step(word.substr(i));
      const auto length = static_cast<uint32_t>(step.length);
      const int32_t id = symbols_.find(word.substr(i, length));
      if (id >= 0 || !drop_first_ || unknown_ >= 0 || has_bytes(word.substr(i, length))) {
        s.symbols.push_back({-1, -1, id, static_cast<uint32_t>(i), length});
      }
      i += length;
    }
  }

  bool has_bytes(std::string_view text) const {
    return std::all_of(text.begin(), text.end(),
                       [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; });
  }

  // The best pair again and again; O(n^2) of a small n, without a heap.
  void merge_short(BpeScratch& s) const {
    std::array<const PairTable::Entry*, kShortWord> pair;
    auto& symbols = s.symbols;
    size_t n = symbols.size();
    for (size_t i = 0; i + 1 < n; ++i) pair[i] = pairs_.find(symbols[i].id, symbols[i + 1].id);
    while (n > 1) {
      size_t best = n;
      int32_t rank = std::numeric_limits<int32_t>::max();
      for (size_t i = 0; i + 1 < n; ++i) {
        if (pair[i] != nullptr && pair[i]->rank < rank) {
          rank = pair[i]->rank;
          best = i;
        }
      }
      if (best == n) break;
      symbols[best].id = pair[best]->merged;
      symbols[best].length += symbols[best + 1].length;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      --n;
      for (size_t i = best + 1; i + 1 < n; ++i) pair[i] = pair[i + 1];
      if (best > 0) pair[best - 1] = pairs_.find(symbols[best - 1].id, symbols[best].id);
      if (best + 1 < n) pair[best] = pairs_.find(symbols[best].id, symbols[best + 1].id);
    }
  }

  void emit(std::string_view word, const BpeScratch& s, std::vector<int32_t>& out) const {
    bool last_unknown = false;
    for (const Symbol& symbol : s.symbols) {
      if (symbol.length == 0) continue;
      const int32_t id = symbol.id < 0 ? -1 : token_of_[static_cast<size_t>(symbol.id)];
      if (id >= 0) {
        out.push_back(id);
        last_unknown = false;
      } else {
        emit_unknown(word.substr(symbol.begin, symbol.length), out, last_unknown);
      }
    }
  }

  // A symbol that is no token: its bytes as tokens where they are, the unknown token otherwise, or
  // nothing.
  void emit_unknown(std::string_view text, std::vector<int32_t>& out, bool& last_unknown) const {
    if (byte_level_) {
      for (const char c : text) {
        const int32_t id = token_of_[static_cast<size_t>(byte_symbols_[static_cast<uint8_t>(c)])];
        push(id >= 0 ? id : unknown_, id < 0, out, last_unknown);
      }
      return;
    }
    if (has_bytes(text)) {
      for (const char c : text) push(byte_ids_[static_cast<uint8_t>(c)], false, out, last_unknown);
      return;
    }
    push(unknown_, true, out, last_unknown);
  }

  void push(int32_t id, bool unknown, std::vector<int32_t>& out, bool& last_unknown) const {
    if (id >= 0 && !(unknown && last_unknown && fuse_unknown_)) out.push_back(id);
    last_unknown = unknown;
  }

  bool byte_level_ = true;
  bool ignore_merges_ = false;
  bool drop_first_ = false;
  bool fuse_unknown_ = false;
  int32_t unknown_ = -1;
  TextTable symbols_;
  std::vector<int32_t> token_of_;  // symbol -> token, -1 if only merges know it
  std::array<int32_t, 256> byte_symbols_;
  std::array<int32_t, 256> byte_ids_;
  PairTable pairs_;
};

class ScoredBpe final : public Bpe {
 public:
  explicit ScoredBpe(const Vocabulary& v)
      : scores_(v.scores), unknown_(v.unknown.value_or(-1)), texts_(v.tokens.size()) {
    for (float& score : scores_) {
      if (std::isnan(score))
        score = std::numeric_limits<float>::lowest();  // it must have a place in the order
    }
    for (size_t i = 0; i < v.tokens.size(); ++i) {
      const std::string& text = v.tokens[i];
      if (text.empty()) continue;
      const auto number = static_cast<size_t>(texts_.intern(text));
      if (number == token_of_.size()) token_of_.push_back(-1);
      token_of_[number] = static_cast<int32_t>(i);  // of equal texts the last
      longest_ = std::max(longest_, text.size());
    }
    texts_.shrink();
    byte_ids_ = byte_tokens(v.tokens);
    for (int b = 0; b < 256; ++b) {
      const char c = static_cast<char>(b);
      int32_t& id = byte_ids_[static_cast<size_t>(b)];
      if (id < 0) id = token(std::string_view(&c, 1));
    }
  }

  int32_t token(std::string_view word) const override {
    if (word.size() > longest_) return -1;
    const int32_t number = texts_.find(word);
    return number < 0 ? -1 : token_of_[static_cast<size_t>(number)];
  }

  void encode(std::string_view word, BpeScratch& s, std::vector<int32_t>& out) const override {
    s.symbols.clear();
    for (size_t i = 0; i < word.size();) {
      const auto length = static_cast<uint32_t>(utf8_step(word.substr(i)).length);
      s.symbols.push_back(
          {-1, -1, token(word.substr(i, length)), static_cast<uint32_t>(i), length});
      i += length;
    }
    link(s.symbols);
    merge_with_heap(s, [&](const Symbol& l, const Symbol& r, Candidate& c) {
      c.merged = token(word.substr(l.begin, l.length + r.length));
      if (c.merged < 0) return false;
      c.key = scores_[static_cast<size_t>(c.merged)];
      return true;
    });
    for (const Symbol& symbol : s.symbols) {
      if (symbol.length == 0) continue;
      if (symbol.id >= 0) {
        out.push_back(symbol.id);
        continue;
      }
      for (const char c : word.substr(symbol.begin, symbol.length)) {
        const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
        if (id >= 0 || unknown_ >= 0) out.push_back(id >= 0 ? id : unknown_);
      }
    }
  }

 private:
  std::vector<float> scores_;
  int32_t unknown_ = -1;
  TextTable texts_;
  std::vector<int32_t> token_of_;  // number of a text -> token
  size_t longest_ = 0;
  std::array<int32_t, 256> byte_ids_;
};

}  // namespace

Result<std::unique_ptr<const Bpe>> make_bpe(const Vocabulary& v) {
  if (v.tokens.empty()) {
    return fail("vocabulary: no tokens");
  }
  if (v.kind != VocabularyKind::kSentencePiece) {
    return RankedBpe::create(v);
  }
  if (v.scores.size() < v.tokens.size()) {
    return fail("vocabulary: {} scores for {} tokens", v.scores.size(), v.tokens.size());
  }
  return std::unique_ptr<const Bpe>(std::make_unique<ScoredBpe>(v));
}

}  // namespace heddle::text
