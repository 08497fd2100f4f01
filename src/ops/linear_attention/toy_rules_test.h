#pragma once
// Three rules of other kinds than Gated DeltaNet's, for tests: what ops/linear_attention can carry.
//   lightning  constant decay, no correction, a norm over all heads, then a gate
//   ssd        decay per value head, no correction, keys shared by a group, D v beside S^T q; gate,
//              then a norm over all heads
//   kda        decay per channel, delta rule, norm and gate head by head
// Their inputs are rows of projections as they stand: convolutions are ops/conv's.
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/linear_attention/inputs.h"
#include "ops/linear_attention/recurrence.h"

namespace heddle::ops::linear_attention::toy {

enum class Kind : uint8_t { lightning, ssd, kda };

struct Sizes : FoldShape {
  Sizes(Kind k, int64_t keys, int64_t values, int64_t key_width, int64_t value_width_of_head)
      : kind(k) {
    key_heads = keys;
    value_heads = values;
    key_dim = key_width;
    value_dim = value_width_of_head;
    corrects = kind == Kind::kda;
    decay = kind == Kind::lightning ? Decay::constant
            : kind == Kind::ssd     ? Decay::head
                                    : Decay::channel;
  }
  Kind kind;

  // A row: [q HK K | k HK K | v HV V | z HV V | strength HV | decay: kda HK K].
  int64_t query_at(int64_t head) const { return head * key_dim; }
  int64_t key_at(int64_t head) const { return (key_heads + head) * key_dim; }
  int64_t value_at(int64_t head) const { return 2 * key_heads * key_dim + head * value_dim; }
  int64_t gate_at(int64_t head) const { return value_at(value_heads) + head * value_dim; }
  int64_t strength_at(int64_t head) const { return gate_at(value_heads) + head; }
  int64_t decay_at(int64_t head) const { return strength_at(value_heads) + head * key_dim; }
  int64_t projected() const { return kind == Kind::kda ? decay_at(key_heads) : decay_at(0); }
};

constexpr float kEps = 1e-6f;

struct Args : FoldArgs {
  explicit Args(const Sizes& s) : sizes(s) { shape = &sizes; }
  const Sizes& sizes;
  const float* projected = nullptr;  // [T, projected()]
  const float* decay = nullptr;      // [HV] <= 0: g of lightning, A of the others
  const float* skip = nullptr;       // [HV]: D of ssd
  const float* norm = nullptr;       // [HV V]; kda: [V]
};

template <class T>
class Equations {
 public:
  using Real = T;
  using Values = std::vector<T>;

  // rows: nullptr: those of args.projected.
  Equations(const Args& args, const std::vector<std::vector<T>>* rows)
      : args_(args), s_(args.sizes), rows_(rows) {}

  const FoldShape& shape() const { return s_; }
  // kda: to unit length; lightning and ssd: SiLU.
  Values key(const Row& row, int64_t head) const {
    return activated(slice(row, s_.key_at(head), s_.key_dim), T(1));
  }
  Values query(const Row& row, int64_t head) const {
    return activated(slice(row, s_.query_at(head), s_.key_dim), std::sqrt(T(s_.key_dim)));
  }
  Values value(const Row& row, int64_t head) const {
    return slice(row, s_.value_at(head), s_.value_dim);
  }
  T strength(const Row& row, int64_t head) const {
    if (s_.kind == Kind::lightning) return 1;
    const T x = at(row, s_.strength_at(head));
    return s_.kind == Kind::ssd ? softplus(x) : sigmoid(x);
  }
  Values log_decay(const Row& row, int64_t head) const {
    const T a = args_.decay[head];
    if (s_.kind == Kind::lightning) return {a};
    if (s_.kind == Kind::ssd) return {a * strength(row, head)};
    const int64_t h = s_.key_head(head);
    Values g = slice(row, s_.decay_at(h), s_.key_dim);
    for (T& x : g) x = T(args_.decay[h]) * softplus(x);
    return g;
  }
  T skip(int64_t head) const { return s_.kind == Kind::ssd ? T(args_.skip[head]) : T(0); }
  Values finish(const Row& row, Values o) const {
    const Values z = slice(row, s_.gate_at(0), s_.value_width());
    for (size_t i = 0; i < o.size() && s_.kind == Kind::ssd; ++i) o[i] *= silu(z[i]);
    const int64_t width = s_.kind == Kind::kda ? s_.value_dim : s_.value_width();
    Values y = rms_norm(o, width, args_.norm, kEps);
    for (size_t i = 0; i < y.size() && s_.kind != Kind::ssd; ++i) y[i] *= sigmoid(z[i]);
    return y;
  }

 private:
  T at(const Row& row, int64_t column) const {
    return rows_ == nullptr ? T(args_.projected[row.batch * s_.projected() + column])
                            : (*rows_)[static_cast<size_t>(row.index)][static_cast<size_t>(column)];
  }
  Values slice(const Row& row, int64_t column, int64_t width) const {
    Values x;
    for (int64_t i = 0; i < width; ++i) x.push_back(at(row, column + i));
    return x;
  }
  Values activated(Values x, T divisor) const {
    if (s_.kind == Kind::kda) return unit_length(x, divisor);
    for (T& value : x) value = silu(value);
    return x;
  }

  const Args& args_;
  const Sizes& s_;
  const std::vector<std::vector<T>>* rows_;
};

// The fast kernels of a rule (toy_rules_test.cpp).
void step(backend::Context& ctx, const Args& args);

}  // namespace heddle::ops::linear_attention::toy
