#pragma once
// Finding the added tokens of a vocabulary in text, before normalising and splitting.
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/tokenizer/vocabulary.h"

namespace heddle::text {

class AddedTokens {
 public:
  struct Match {
    int64_t begin = 0;  // the white space that the token takes included
    int64_t end = 0;
    int32_t id = 0;
  };

  AddedTokens(std::vector<AddedToken> tokens, AddedTokenOrder order);

  // Appends the matches in `text` from left to right; without parse_special those of special tokens
  // are text.
  void find(std::string_view text, bool parse_special, std::vector<Match>& matches) const;
  bool empty() const { return tokens_.empty(); }

 private:
  struct Node {
    int32_t child = -1;
    int32_t sibling = -1;
    int32_t token = -1;
    uint8_t byte = 0;
  };

  void insert(int32_t token);
  int32_t descend(int32_t node, uint8_t byte) const;
  bool wanted(int32_t token, bool parse_special) const;
  int32_t longest_at(std::string_view text, int64_t at, bool parse_special) const;
  void find_leftmost(std::string_view text, bool parse_special, std::vector<Match>& matches) const;
  void find_longest(std::string_view text, bool parse_special, std::vector<Match>& matches) const;
  void resolve(std::string_view text, int64_t begin, int64_t end, bool parse_special,
               std::vector<Match>& matches) const;
  bool stands_alone(std::string_view text, int64_t begin, int64_t end) const;

  std::vector<AddedToken> tokens_;
  AddedTokenOrder order_;
  bool strips_ = false;  // whether any token takes white space
  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_;
};

}  // namespace heddle::text
