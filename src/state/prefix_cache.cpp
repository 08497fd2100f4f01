#include "state/prefix_cache.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/hash.h"

namespace heddle::state {

namespace {

// Nodes looked at behind a divergence before giving up on a better resume point.
constexpr int64_t kMaxVisits = 1024;

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t length = std::min(a.size(), b.size());
  size_t i = 0;
  while (i < length && a[i] == b[i]) ++i;
  return static_cast<int64_t>(i);
}

bool starts_with(std::span<const int32_t> tokens, std::span<const int32_t> prefix) {
  return tokens.size() >= prefix.size() &&
         common_prefix(tokens, prefix) == static_cast<int64_t>(prefix.size());
}

// Whether pages of a window group hold what a token at `position` sees.
bool window_covered(const PageGroup& group, const GroupSnapshot& snapshot, int64_t position) {
  const auto page_held = [&](int64_t page) {
    const int64_t index = page - snapshot.first_page;
    return index >= 0 && index < static_cast<int64_t>(snapshot.pages.size()) &&
           snapshot.pages[static_cast<size_t>(index)];
  };
  const int64_t records = group.page_records;
  for (int64_t slot = 0; slot < std::min(group.sinks, position); slot += records) {
    if (!page_held(slot / records)) return false;
  }
  for (int64_t page = group.first_kept(position) / records; page * records < position; ++page) {
    if (!page_held(page)) return false;
  }
  return true;
}

}  // namespace

// The best place found so far.
struct PrefixCache::Candidate {
  int64_t position = 0;
  const Node* node = nullptr;        // of the last full block
  const Node* point_node = nullptr;  // where the point hangs
  const Point* point = nullptr;      // null in a layout of per-token parts
  const BlockRef* page = nullptr;    // per-token, of the unfinished block
};

PrefixCache::PrefixCache(const StateLayout& layout, Options options)
    : layout_(&layout), options_(std::move(options)) {
  for (size_t i = 0; i < layout.groups.size(); ++i) {
    const PageGroup& group = layout.groups[i];
    if (group.growth == Growth::per_token) {
      per_token_ = i;  // there is no second one: all have pages of 64 records
    } else {
      per_token_only_ = false;
      if (!group.stores_whole_chunk()) trims_across_blocks_ = false;
    }
  }
}

PrefixCache::~PrefixCache() = default;

uint64_t PrefixCache::block_hash(const Node& parent, std::span<const int32_t> tokens) const {
  return hash64(std::as_bytes(tokens), parent.hash) & options_.hash_mask;
}

PrefixCache::Node* PrefixCache::find_child(const Node& parent,
                                           std::span<const int32_t> tokens) const {
  const auto same = [&](const Node& node) {
    return std::memcmp(node.tokens.data(), tokens.data(), sizeof(BlockTokens)) == 0;
  };
  if (parent.likely != nullptr && same(*parent.likely)) return parent.likely;
  if (parent.children.size() < 2) return nullptr;
  const auto [first, last] = parent.children.equal_range(block_hash(parent, tokens));
  for (auto it = first; it != last; ++it) {
    if (same(*it->second)) return it->second;
  }
  return nullptr;
}

const PrefixCache::Point* PrefixCache::find_point(const Node& node, uint64_t id) const {
  for (const Point& point : node.points) {
    if (point.id == id) return &point;
  }
  return nullptr;
}

// ---- matching ----

// A point serves its own position, and an earlier one where every group still has what that needs.
bool PrefixCache::usable(const Point& point, int64_t position) const {
  if (position == point.position) return true;
  if (position > point.position) return false;
  for (size_t i = 0; i < point.groups.size(); ++i) {
    const PageGroup& group = layout_->groups[i];
    switch (group.growth) {
      case Growth::per_token:
        break;
      case Growth::window:
        if (!group.stores_whole_chunk()) return false;
        if (!window_covered(group, point.groups[i], position)) return false;
        break;
      case Growth::folded:
        if (position / group.page_records != point.position / group.page_records) return false;
        break;
    }
  }
  return true;
}

// `tokens`: those of the prompt behind the node.
void PrefixCache::consider(const Node& node, const Point& point, std::span<const int32_t> tokens,
                           Candidate& best) const {
  const int64_t common = common_prefix(point.tail, tokens);
  const int64_t position = node.depth * kPageTokens + common;
  if (position > best.position && usable(point, position)) {
    best = {position, &node, &node, &point, &point.page};
  }
}

// Points of branches that leave the prompt inside their first block: a window may still hold what
// the last common position needs. Bounded: a better match is not worth an unbounded walk.
void PrefixCache::consider_beyond(const Node& node, std::span<const int32_t> tokens,
                                  Candidate& best) const {
  int64_t visits = 0;
  for (const auto& [hash, child] : node.children) {
    const int64_t position = node.depth * kPageTokens + common_prefix(child->tokens, tokens);
    std::vector<const Node*> stack;
    if (position > best.position) stack.push_back(child);
    while (!stack.empty() && visits++ < kMaxVisits) {
      const Node* at = stack.back();
      stack.pop_back();
      const auto found = std::ranges::find_if(
          at->points, [&](const Point& point) { return usable(point, position); });
      if (found != at->points.end()) {
        best = {position, &node, at, &*found, &child->page};
        break;
      }
      for (const auto& [below_hash, below] : at->children) stack.push_back(below);
    }
  }
}

Snapshot PrefixCache::assemble(const Candidate& candidate) const {
  Snapshot snapshot;
  snapshot.position = candidate.position;
  if (candidate.point != nullptr) {
    snapshot.groups = candidate.point->groups;
  } else {
    snapshot.groups.resize(layout_->groups.size());
  }
  const int64_t position = candidate.position;
  for (size_t i = 0; i < snapshot.groups.size(); ++i) {
    const PageGroup& declared = layout_->groups[i];
    GroupSnapshot& group = snapshot.groups[i];
    if (declared.growth == Growth::window) {
      group.pages.resize(static_cast<size_t>(
          std::max<int64_t>(0, declared.pages_for(position) - group.first_page)));
    } else if (declared.growth == Growth::folded && position % declared.page_records == 0) {
      group.open.reset();
    }
  }
  if (!per_token_) return snapshot;
  std::vector<BlockRef>& pages = snapshot.groups[*per_token_].pages;
  const Node* node = candidate.node;
  const auto blocks = static_cast<size_t>(node->depth);
  const bool tail = position > node->depth * kPageTokens;
  pages.resize(blocks + (tail ? 1 : 0));
  if (tail) pages.back() = *candidate.page;
  for (size_t block = blocks; block-- > 0; node = node->parent) pages[block] = node->page;
  return snapshot;
}

PrefixCache::Match PrefixCache::match(std::string_view isolation_key,
                                      std::span<const int32_t> tokens, int64_t max_position) const {
  Match match;
  const auto root = roots_.find(isolation_key);
  if (root == roots_.end() || max_position <= 0) return match;
  tokens = tokens.first(std::min(tokens.size(), static_cast<size_t>(max_position)));

  const Node* deepest = root->second;
  auto rest = tokens;
  while (rest.size() >= kPageTokens) {
    const Node* child = find_child(*deepest, rest.first(kPageTokens));
    if (child == nullptr) break;
    deepest = child;
    rest = rest.subspan(kPageTokens);
  }
  // The page of a block that starts like the rest of the prompt.
  Candidate known{deepest->depth * kPageTokens, deepest, nullptr, nullptr, nullptr};
  const auto extend = [&](std::span<const int32_t> block, const BlockRef& page) {
    const int64_t position = deepest->depth * kPageTokens + common_prefix(block, rest);
    if (position <= known.position) return;
    known.position = position;
    known.page = &page;
  };
  for (const auto& [hash, child] : deepest->children) extend(child->tokens, child->page);
  for (const Point& point : deepest->points) extend(point.tail, point.page);
  match.known = known.position;

  Candidate best;
  if (per_token_only_) {
    best = known;
  } else {
    for (const Node* node = deepest; node != nullptr && best.position == 0; node = node->parent) {
      const auto behind = tokens.subspan(static_cast<size_t>(node->depth * kPageTokens));
      for (const Point& point : node->points) consider(*node, point, behind, best);
    }
    if (trims_across_blocks_) consider_beyond(*deepest, rest, best);
  }
  if (best.position == 0) return match;
  match.position = best.position;
  match.node = best.point_node != nullptr ? best.point_node->id : best.node->id;
  match.point = best.point != nullptr ? best.point->id : 0;
  match.snapshot = assemble(best);
  return match;
}

void PrefixCache::touch(const Match& match, int64_t tokens) {
  ++counts_.lookups;
  counts_.tokens_asked += tokens;
  if (match.position == 0) return;
  ++counts_.hits;
  counts_.tokens_saved += match.position;
  const auto found = nodes_.find(match.node);
  if (found == nodes_.end()) return;
  // Only the point that was used: refreshing those on the way would keep what nobody resumes from.
  for (Point& point : found->second->points) {
    if (point.id == match.point) point.clock = clock_;
  }
  for (Node* node = found->second.get(); node != nullptr; node = node->parent) node->clock = clock_;
}

// ---- insertion ----

void PrefixCache::hold(const BlockRef& block) {
  if (block && held_[block.get()]++ == 0) bytes_ += block.bytes();
}

void PrefixCache::release(const BlockRef& block) {
  if (!block) return;
  const auto found = held_.find(block.get());
  HEDDLE_CHECK(found != held_.end(), "release of a block that is not held");
  if (--found->second > 0) return;
  bytes_ -= block.bytes();
  held_.erase(found);
}

void PrefixCache::hold_point(const Point& point, bool holds) {
  const auto apply = [&](const BlockRef& block) { holds ? hold(block) : release(block); };
  apply(point.page);
  for (const GroupSnapshot& group : point.groups) group.for_each_block(apply);
}

// Points behind `node` whose tails `tokens` starts with take `page` for their own: the same records
// once. Where nothing else hangs on a point, it is then of no use.
void PrefixCache::share_page(Node& node, std::span<const int32_t> tokens, const BlockRef& page) {
  for (size_t i = node.points.size(); i-- > 0;) {
    Point& point = node.points[i];
    if (point.tail.empty() || point.tail.size() >= tokens.size()) continue;
    if (!starts_with(tokens, point.tail)) continue;
    hold_point(point, false);
    if (per_token_only_) {
      node.points.erase(node.points.begin() + static_cast<int64_t>(i));
      continue;
    }
    point.page = page;
    hold_point(point, true);
  }
}

PrefixCache::Node* PrefixCache::add_child(Node& parent, std::span<const int32_t> tokens,
                                          const Snapshot& snapshot) {
  auto owned = std::make_unique<Node>();
  Node* node = owned.get();
  node->id = next_id_++;
  node->parent = &parent;
  node->hash = block_hash(parent, tokens);
  node->depth = parent.depth + 1;
  std::ranges::copy(tokens, node->tokens.begin());
  if (per_token_) {
    node->page = snapshot.groups[*per_token_].pages[static_cast<size_t>(parent.depth)];
    hold(node->page);
  }
  parent.children.emplace(node->hash, node);
  if (parent.likely == nullptr) parent.likely = node;
  nodes_.emplace(node->id, std::move(owned));
  share_page(parent, tokens, node->page);
  return node;
}

void PrefixCache::add_point(Node& node, std::span<const int32_t> tail, const Snapshot& snapshot,
                            double priority) {
  for (Point& point : node.points) {
    if (!std::ranges::equal(point.tail, tail)) continue;
    point.clock = clock_;
    point.priority = std::max(point.priority, priority);
    return;
  }
  if (per_token_only_ && tail.empty()) return;
  Point point;
  point.id = next_id_++;
  point.position = snapshot.position;
  point.priority = priority;
  point.clock = clock_;
  point.tail.assign(tail.begin(), tail.end());
  if (!tail.empty()) {
    // A block or a longer tail that starts with this one has the records already.
    const BlockRef* page = nullptr;
    for (const auto& [hash, child] : node.children) {
      if (starts_with(child->tokens, tail)) page = &child->page;
    }
    for (const Point& other : node.points) {
      if (starts_with(other.tail, tail)) page = &other.page;
    }
    if (page != nullptr && per_token_only_) return;
    if (page != nullptr) {
      point.page = *page;
    } else if (per_token_) {
      point.page = snapshot.groups[*per_token_].pages.back();
      share_page(node, tail, point.page);
    }
  }
  for (size_t i = 0; i < snapshot.groups.size(); ++i) {
    point.groups.push_back(per_token_ == i ? GroupSnapshot{} : snapshot.groups[i]);
  }
  point.bytes = point.page.bytes();
  for (const GroupSnapshot& group : point.groups) {
    group.for_each_block([&](const BlockRef& block) { point.bytes += block.bytes(); });
  }
  hold_point(point, true);
  node.points.push_back(std::move(point));
}

void PrefixCache::insert(std::string_view isolation_key, std::span<const int32_t> tokens,
                         const Snapshot& snapshot, double priority) {
  HEDDLE_CHECK(static_cast<int64_t>(tokens.size()) == snapshot.position, "{} tokens, position {}",
               tokens.size(), snapshot.position);
  HEDDLE_CHECK(snapshot.groups.size() == layout_->groups.size(), "snapshot of another layout");
  if (tokens.empty()) return;
  ++counts_.inserted;
  auto root = roots_.find(isolation_key);
  if (root == roots_.end()) {
    auto owned = std::make_unique<Node>();
    owned->id = next_id_++;
    root = roots_.emplace(std::string(isolation_key), owned.get()).first;
    owned->key = root->first;
    nodes_.emplace(owned->id, std::move(owned));
  }
  Node* node = root->second;
  node->clock = clock_;
  auto rest = tokens;
  for (; rest.size() >= kPageTokens; rest = rest.subspan(kPageTokens)) {
    Node* child = find_child(*node, rest.first(kPageTokens));
    node = child != nullptr ? child : add_child(*node, rest.first(kPageTokens), snapshot);
    node->clock = clock_;
  }
  add_point(*node, rest, snapshot, priority);
  if (bytes_ > options_.max_bytes) shrink(options_.max_bytes - options_.max_bytes / 16);
}

// ---- eviction ----

// Prefill work for tokens [from, to), in tokens at position 0.
double PrefixCache::cost(int64_t from, int64_t to) const {
  const auto a = static_cast<double>(from);
  const auto b = static_cast<double>(to);
  return b - a + options_.cost_growth * (b * b - a * a) / 2;
}

// Recency plus cost saved per byte (GreedyDual-Size): the clock is the score of what went last, so
// that an old entry must have been worth more to stay beside a new one.
double PrefixCache::score(const Node& node, const Point* point) const {
  if (point == nullptr) {
    const int64_t end = node.depth * kPageTokens;
    return node.clock + cost(end - kPageTokens, end) /
                            static_cast<double>(std::max<int64_t>(1, node.page.bytes()));
  }
  // Without it, work starts from the nearest earlier point of its path.
  int64_t from = per_token_only_ ? node.depth * kPageTokens : 0;
  std::span<const int32_t> behind = point->tail;
  for (const Node* at = &node; at != nullptr && from == 0; at = at->parent) {
    for (const Point& other : at->points) {
      if (other.position >= point->position || !starts_with(behind, other.tail)) continue;
      from = std::max(from, other.position);
    }
    behind = at->tokens;
  }
  return point->clock + point->priority * cost(from, point->position) /
                            static_cast<double>(std::max<int64_t>(1, point->bytes));
}

// A node that may go by itself: in a layout that needs points, nodes go with the last point that
// uses them.
bool PrefixCache::evictable(const Node& node) const {
  return per_token_only_ && node.parent != nullptr && node.children.empty() && node.points.empty();
}

void PrefixCache::remove_node(Node& node) {
  release(node.page);
  if (node.parent != nullptr) {
    Node& parent = *node.parent;
    auto [first, last] = parent.children.equal_range(node.hash);
    parent.children.erase(
        std::find_if(first, last, [&](const auto& entry) { return entry.second == &node; }));
    if (parent.likely == &node)
      parent.likely = parent.children.empty() ? nullptr : parent.children.begin()->second;
    ++counts_.evicted_nodes;
  } else {
    roots_.erase(roots_.find(node.key));
  }
  nodes_.erase(node.id);
}

// Removes nodes that nothing can resume through, upwards; returns the first that stays.
PrefixCache::Node* PrefixCache::prune(Node* node) {
  while (node != nullptr && node->children.empty() && node->points.empty() &&
         (!per_token_only_ || node->parent == nullptr)) {
    Node* parent = node->parent;
    remove_node(*node);
    node = parent;
  }
  return node;
}

std::vector<int32_t> PrefixCache::path_tokens(const Node& node) const {
  std::vector<int32_t> tokens(static_cast<size_t>(node.depth * kPageTokens));
  for (const Node* at = &node; at->parent != nullptr; at = at->parent) {
    std::ranges::copy(at->tokens, tokens.begin() + (at->depth - 1) * kPageTokens);
  }
  return tokens;
}

void PrefixCache::evict_point(Node& node, uint64_t id) {
  const auto at = std::ranges::find_if(node.points, [&](const Point& p) { return p.id == id; });
  if (options_.on_evict) {
    const Candidate whole{at->position, &node, &node, &*at, &at->page};
    std::vector<int32_t> tokens = path_tokens(node);
    tokens.insert(tokens.end(), at->tail.begin(), at->tail.end());
    const Node* root = &node;
    while (root->parent != nullptr) root = root->parent;
    options_.on_evict(root->key, tokens, assemble(whole));
  }
  hold_point(*at, false);
  node.points.erase(at);
  ++counts_.evicted_points;
}

void PrefixCache::shrink(int64_t bytes) {
  if (bytes_ <= bytes) return;
  const auto later = [](const Victim& a, const Victim& b) { return a.score > b.score; };
  std::vector<Victim> heap;
  for (const auto& [id, node] : nodes_) {
    for (const Point& point : node->points) heap.push_back({score(*node, &point), id, point.id});
    if (evictable(*node)) heap.push_back({score(*node, nullptr), id, 0});
  }
  std::ranges::make_heap(heap, later);
  while (bytes_ > bytes && !heap.empty()) {
    std::ranges::pop_heap(heap, later);
    const Victim victim = heap.back();
    heap.pop_back();
    Node& node = *nodes_.at(victim.node);
    const Point* point = victim.point != 0 ? find_point(node, victim.point) : nullptr;
    // What stood before it may have gone meanwhile: it is worth more now.
    if (const double now = score(node, point); now > victim.score) {
      heap.push_back({now, victim.node, victim.point});
      std::ranges::push_heap(heap, later);
      continue;
    }
    clock_ = std::max(clock_, victim.score);
    Node* stays = &node;
    if (victim.point != 0) {
      evict_point(node, victim.point);
    } else {
      stays = node.parent;
      remove_node(node);
    }
    stays = prune(stays);
    if (stays != nullptr && evictable(*stays)) {
      heap.push_back({score(*stays, nullptr), stays->id, 0});
      std::ranges::push_heap(heap, later);
    }
  }
}

void PrefixCache::clear() {
  roots_.clear();
  nodes_.clear();
  held_.clear();
  bytes_ = 0;
}

PrefixCache::Stats PrefixCache::stats() const {
  Stats stats = counts_;
  stats.bytes = bytes_;
  for (const auto& [block, references] : held_) {
    switch (block->growth) {
      case Growth::per_token:
        stats.per_token_bytes += block->bytes;
        break;
      case Growth::window:
        stats.window_bytes += block->bytes;
        break;
      case Growth::folded:
        stats.folded_bytes += block->bytes;
        break;
    }
  }
  for (const auto& [id, node] : nodes_) {
    if (node->parent != nullptr) ++stats.nodes;
    stats.points += static_cast<int64_t>(node->points.size());
    if (per_token_only_ || !node->children.empty() || !node->points.empty()) continue;
    stats.unreachable_bytes += node->page.bytes();
  }
  return stats;
}

}  // namespace heddle::state
