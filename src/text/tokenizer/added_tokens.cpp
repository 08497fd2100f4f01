#include "text/tokenizer/added_tokens.h"

#include <algorithm>
#include <set>

#include "text/unicode.h"

namespace heddle::text {
namespace {

struct Span64 {
  int64_t begin = 0;
  int64_t end = 0;
};

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, AddedTokenOrder order)
    : tokens_(std::move(tokens)), order_(order) {
  roots_.fill(-1);
  std::erase_if(tokens_, [](const AddedToken& token) { return token.text.empty(); });
  strips_ = std::any_of(tokens_.begin(), tokens_.end(),
                        [](const AddedToken& token) { return token.lstrip || token.rstrip; });
  for (size_t i = 0; i < tokens_.size(); ++i) insert(static_cast<int32_t>(i));
}

void AddedTokens::insert(int32_t token) {
  int32_t node = -1;
  for (const char c : tokens_[static_cast<size_t>(token)].text) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t next = node < 0 ? roots_[byte] : descend(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({-1, -1, -1, byte});
      if (node < 0) {
        roots_[byte] = next;
      } else {
        nodes_.back().sibling = nodes_[static_cast<size_t>(node)].child;
        nodes_[static_cast<size_t>(node)].child = next;
      }
    }
    node = next;
  }
  nodes_[static_cast<size_t>(node)].token = token;
}

int32_t AddedTokens::descend(int32_t node, uint8_t byte) const {
  int32_t child = nodes_[static_cast<size_t>(node)].child;
  while (child >= 0 && nodes_[static_cast<size_t>(child)].byte != byte) {
    child = nodes_[static_cast<size_t>(child)].sibling;
  }
  return child;
}

bool AddedTokens::wanted(int32_t token, bool parse_special) const {
  return token >= 0 && (parse_special || !tokens_[static_cast<size_t>(token)].special);
}

int32_t AddedTokens::longest_at(std::string_view text, int64_t at, bool parse_special) const {
  int32_t best = -1;
  auto i = static_cast<size_t>(at);
  int32_t node = roots_[static_cast<uint8_t>(text[i])];
  while (node >= 0) {
    const int32_t token = nodes_[static_cast<size_t>(node)].token;
    if (wanted(token, parse_special)) best = token;
    if (++i >= text.size()) break;
    node = descend(node, static_cast<uint8_t>(text[i]));
  }
  return best;
}

void AddedTokens::find(std::string_view text, bool parse_special,
                       std::vector<Match>& matches) const {
  if (tokens_.empty()) return;
  if (order_ == AddedTokenOrder::kLeftmostLongest) {
    find_leftmost(text, parse_special, matches);
  } else {
    find_longest(text, parse_special, matches);
  }
}

bool AddedTokens::stands_alone(std::string_view text, int64_t begin, int64_t end) const {
  const auto n = static_cast<int64_t>(text.size());
  if (begin > 0) {
    int64_t at = begin - 1;
    while (at > 0 && begin - at < 4 &&
           (static_cast<uint8_t>(text[static_cast<size_t>(at)]) & 0xC0) == 0x80) {
      --at;
    }
    const Utf8Step step =
        utf8_step(text.substr(static_cast<size_t>(at), static_cast<size_t>(begin - at)));
    if (step.valid && is_word_character(step.code_point)) return false;
  }
  if (end < n) {
    const Utf8Step step = utf8_step(text.substr(static_cast<size_t>(end)));
    if (step.valid && is_word_character(step.code_point)) return false;
  }
  return true;
}

void AddedTokens::find_leftmost(std::string_view text, bool parse_special,
                                std::vector<Match>& matches) const {
  const auto n = static_cast<int64_t>(text.size());
  int64_t done = 0;
  for (int64_t at = 0; at < n;) {
    // Special tokens take part in the search even where they are text afterwards: they hide what
    // lies inside them.
    const int32_t index = longest_at(text, at, true);
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    int64_t begin = at;
    int64_t end = at + static_cast<int64_t>(token.text.size());
    at = end;
    if (!wanted(index, parse_special) || begin < done) continue;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) {
      begin -= trailing_white_space(
          text.substr(static_cast<size_t>(done), static_cast<size_t>(begin - done)));
    }
    if (token.rstrip) end += leading_white_space(text.substr(static_cast<size_t>(end)));
    matches.push_back({begin, end, token.id});
    done = end;
  }
}

void AddedTokens::find_longest(std::string_view text, bool parse_special,
                               std::vector<Match>& matches) const {
  // Longer tokens are found first wherever they stand. Only matches that overlap compete, so each
  // group of overlapping ones is settled alone; nearly always the group is one token.
  const auto n = static_cast<int64_t>(text.size());
  const size_t first = matches.size();
  for (int64_t at = 0; at < n;) {
    const int32_t index = longest_at(text, at, parse_special);
    if (index < 0) {
      ++at;
      continue;
    }
    const auto length = [&](int32_t i) {
      return static_cast<int64_t>(tokens_[static_cast<size_t>(i)].text.size());
    };
    int64_t end = at + length(index);
    bool single = true;
    for (int64_t i = at + 1; i < end; ++i) {
      const int32_t other = longest_at(text, i, parse_special);
      if (other >= 0 && i + length(other) > end) {
        end = i + length(other);
        single = false;
      }
    }
    if (single) {
      matches.push_back({at, end, tokens_[static_cast<size_t>(index)].id});
    } else {
      resolve(text, at, end, parse_special, matches);
    }
    at = end;
  }
  if (!strips_) return;
  // White space at the sides of the tokens that take it.
  for (size_t i = first; i < matches.size(); ++i) {
    const auto token = std::find_if(tokens_.begin(), tokens_.end(),
                                    [&](const AddedToken& t) { return t.id == matches[i].id; });
    if (token->lstrip) {
      const int64_t limit = i > first ? matches[i - 1].end : 0;
      matches[i].begin -= trailing_white_space(
          text.substr(static_cast<size_t>(limit), static_cast<size_t>(matches[i].begin - limit)));
    }
    if (token->rstrip) {
      const int64_t limit = i + 1 < matches.size() ? matches[i + 1].begin : n;
      matches[i].end += leading_white_space(text.substr(
          static_cast<size_t>(matches[i].end), static_cast<size_t>(limit - matches[i].end)));
    }
  }
}

void AddedTokens::resolve(std::string_view text, int64_t begin, int64_t end, bool parse_special,
                          std::vector<Match>& matches) const {
  const auto longer = [&](int32_t a, int32_t b) {
    const size_t x = tokens_[static_cast<size_t>(a)].text.size();
    const size_t y = tokens_[static_cast<size_t>(b)].text.size();
    return x > y || (x == y && a < b);
  };
  std::set<int32_t, decltype(longer)> present(longer);
  const std::string_view group = text.substr(0, static_cast<size_t>(end));
  for (int64_t at = begin; at < end; ++at) {
    auto i = static_cast<size_t>(at);
    for (int32_t node = roots_[static_cast<uint8_t>(group[i])]; node >= 0;
         node = descend(node, static_cast<uint8_t>(group[i]))) {
      const int32_t token = nodes_[static_cast<size_t>(node)].token;
      if (wanted(token, parse_special)) present.insert(token);
      if (++i >= group.size()) break;
    }
  }
  const auto first = static_cast<std::ptrdiff_t>(matches.size());
  std::vector<Span64> free{{begin, end}};
  for (const int32_t index : present) {
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    std::vector<Span64> left;
    for (Span64 span : free) {
      while (true) {
        const std::string_view part = text.substr(0, static_cast<size_t>(span.end));
        const size_t hit = part.find(token.text, static_cast<size_t>(span.begin));
        if (hit == std::string_view::npos) break;
        const auto at = static_cast<int64_t>(hit);
        if (at > span.begin) left.push_back({span.begin, at});
        span.begin = at + static_cast<int64_t>(token.text.size());
        matches.push_back({at, span.begin, token.id});
      }
      if (span.begin < span.end) left.push_back(span);
    }
    free = std::move(left);
    if (free.empty()) break;
  }
  std::sort(matches.begin() + first, matches.end(),
            [](const Match& a, const Match& b) { return a.begin < b.begin; });
}

}  // namespace heddle::text
