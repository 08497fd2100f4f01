#pragma once
// The softmax attention sub-layer that the kinds full_attention and sliding_window share: they
// differ in the window of their state parts and of their mask. Equations: README.md.
#include <string>
#include <vector>

#include "ops/attention/attention.h"
#include "ops/elementwise/rope.h"
#include "sublayer/sublayer.h"

namespace heddle::mixers::full_attention {

enum class QkNorm : uint8_t {
  none,
  head,        // each head of q and k by itself, weights [head_dim]
  projection,  // q and k whole, weights [H head_dim] and [G head_dim]
};

// The parameters, checked. Names and defaults: README.md.
struct AttentionConfig {
  int64_t d_model = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t window = 0;  // 0: full attention
  double scale = 0;
  double soft_cap = 0;
  double norm_eps = 0;
  QkNorm qk_norm = QkNorm::none;
  bool output_gate = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool sinks = false;
  bool rope_freqs = false;
  DType kv_dtype = DType::bf16;
  ops::RopeSpec rope;

  int64_t q_width() const { return heads * head_dim; }
  int64_t k_width() const { return kv_heads * head_dim; }
  int64_t v_width() const { return kv_heads * v_head_dim; }
  int64_t out_width() const { return heads * v_head_dim; }
  int64_t gate_width() const { return output_gate ? q_width() : 0; }
  // Rows of the fused projection, in this order: v | k | q | gate. k and q are neighbours, so that
  // one pass rotates both.
  int64_t projected_width() const { return v_width() + k_width() + q_width() + gate_width(); }
};

// `kind` names the mixer in error messages; windowed: the parameter `window` is required.
Result<AttentionConfig> read_config(std::string_view kind, const sublayer::Params& params,
                                    const sublayer::StatePrecision& precision, bool windowed);

std::unique_ptr<sublayer::Design> make_design(const AttentionConfig& config);

// The layer as anyone would write it: the kinds' naive form.
std::vector<float> attention_naive(const sublayer::NaiveRun& run, bool windowed);

// Sizes for tests and benches; window 0: full attention.
std::vector<sublayer::Case> attention_cases(int64_t window);

}  // namespace heddle::mixers::full_attention
