#pragma once
// What was computed for one prompt, found again by the next: a trie of blocks of 64 tokens.
//
// A per-token page, one block of memory for all parts, hangs on every block. Everything else that
// resuming needs (summaries, windows, the pages of an unfinished block) hangs on resume points:
// exact positions at the end of a block or up to 63 tokens behind it. A layout of per-token parts
// alone needs no resume points and resumes anywhere. Only growth classes are known here, no mixer.
//
// Blocks are found by chained hash and compared token by token; nodes are never split; nothing is
// shared between isolation keys. Owned by one thread.
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "state/sequence_state.h"

namespace heddle::state {

class PrefixCache {
 public:
  struct Options {
    // Of the distinct blocks that the cache refers to, also those that running sequences share.
    int64_t max_bytes = 0;
    // Prefill cost of a token at position p, in tokens at position 0, is 1 + cost_growth p. The
    // gain of attention's longer reads; planners know it.
    double cost_growth = 0;
    // Called before a resume point is evicted, so that a slower tier can take it. May be empty.
    std::function<void(std::string_view isolation_key, std::span<const int32_t> tokens,
                       const Snapshot& snapshot)>
        on_evict;
    // Bits of the block hash that are used; tests narrow it to see collisions.
    uint64_t hash_mask = ~uint64_t{0};
  };

  struct Match {
    Snapshot snapshot;     // position 0: a miss, nothing to resume from
    int64_t position = 0;  // = snapshot.position
    // Leading tokens whose per-token pages are cached; at least `position`. If the next insertion
    // of these tokens forks the trie, it forks here: the place for a resume point of its own.
    int64_t known = 0;
    uint64_t node = 0;  // for touch()
    uint64_t point = 0;
  };

  struct Stats {
    int64_t bytes = 0;              // distinct blocks held; live by growth class:
    int64_t per_token_bytes = 0;    //
    int64_t window_bytes = 0;       //
    int64_t folded_bytes = 0;       //
    int64_t unreachable_bytes = 0;  // per-token pages that no resume point can use: 0 by design
    int64_t nodes = 0;
    int64_t points = 0;
    int64_t lookups = 0;  // touch() calls
    int64_t hits = 0;
    int64_t tokens_asked = 0;
    int64_t tokens_saved = 0;
    int64_t inserted = 0;
    int64_t evicted_points = 0;
    int64_t evicted_nodes = 0;
  };

  // The layout must outlive it, and it must not outlive the pool of the snapshots it is given.
  PrefixCache(const StateLayout& layout, Options options);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The longest position <= max_position at which a sequence with these tokens can resume.
  Match match(std::string_view isolation_key, std::span<const int32_t> tokens,
              int64_t max_position) const;
  // Counts a lookup for a prompt of `tokens` tokens and marks what it used as recent. The match may
  // be old: what has been evicted since is skipped.
  void touch(const Match& match, int64_t tokens);
  // Keeps the snapshot taken after `tokens` (as many as its position). `priority` multiplies what
  // losing it is taken to cost. Evicts down to max_bytes: possibly what was just inserted.
  void insert(std::string_view isolation_key, std::span<const int32_t> tokens,
              const Snapshot& snapshot, double priority = 1);
  void clear();
  // Evicts down to `bytes`.
  void shrink(int64_t bytes);

  int64_t bytes() const { return bytes_; }
  Stats stats() const;

 private:
  using BlockTokens = std::array<int32_t, kPageTokens>;
  struct Point {
    uint64_t id = 0;
    int64_t position = 0;
    double priority = 1;
    double clock = 0;                   // the eviction clock when it was last used
    int64_t bytes = 0;                  // of its own blocks
    std::vector<int32_t> tail;          // tokens behind the node: position mod 64
    BlockRef page;                      // per-token, the unfinished one; null without a tail
    std::vector<GroupSnapshot> groups;  // the other groups; the per-token one stays empty
  };
  struct Node {
    uint64_t id = 0;
    std::string_view key;  // of a root: its isolation key
    uint64_t hash = 0;     // chained
    double clock = 0;
    std::unordered_multimap<uint64_t, Node*> children;
    std::vector<Point> points;
    // What a match meets, side by side: it walks hundreds of nodes.
    Node* parent = nullptr;  // null: the root of an isolation key
    Node* likely = nullptr;  // the first of the children: most nodes have one, found without a hash
    int64_t depth = 0;       // blocks from the root
    BlockRef page;           // per-token: of all its parts
    BlockTokens tokens{};
  };
  struct Candidate;  // of a match
  struct Victim {
    double score;
    uint64_t node;
    uint64_t point;  // 0: the node itself
  };

  uint64_t block_hash(const Node& parent, std::span<const int32_t> tokens) const;
  Node* find_child(const Node& parent, std::span<const int32_t> tokens) const;
  Node* add_child(Node& parent, std::span<const int32_t> tokens, const Snapshot& snapshot);
  const Point* find_point(const Node& node, uint64_t id) const;
  void add_point(Node& node, std::span<const int32_t> tail, const Snapshot& snapshot,
                 double priority);
  void share_page(Node& node, std::span<const int32_t> tokens, const BlockRef& page);

  bool usable(const Point& point, int64_t position) const;
  void consider(const Node& node, const Point& point, std::span<const int32_t> tokens,
                Candidate& best) const;
  void consider_beyond(const Node& node, std::span<const int32_t> tokens, Candidate& best) const;
  Snapshot assemble(const Candidate& candidate) const;

  double cost(int64_t from, int64_t to) const;
  double score(const Node& node, const Point* point) const;
  bool evictable(const Node& node) const;
  void evict_point(Node& node, uint64_t id);
  void remove_node(Node& node);
  Node* prune(Node* node);
  std::vector<int32_t> path_tokens(const Node& node) const;

  void hold(const BlockRef& block);
  void release(const BlockRef& block);
  void hold_point(const Point& point, bool hold);

  const StateLayout* layout_;
  Options options_;
  std::optional<size_t> per_token_;  // its index among the layout's groups
  bool per_token_only_ = true;
  bool trims_across_blocks_ = true;  // nothing but per-token pages and windows in full pages
  std::map<std::string, Node*, std::less<>> roots_;
  std::unordered_map<uint64_t, std::unique_ptr<Node>> nodes_;
  std::unordered_map<const Block*, int64_t> held_;  // references by this cache
  int64_t bytes_ = 0;
  double clock_ = 0;
  uint64_t next_id_ = 1;
  Stats counts_;
};

}  // namespace heddle::state
