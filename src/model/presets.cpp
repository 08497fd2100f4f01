#include "model/presets.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "model/family_common.h"
#include "model/weights.h"

namespace heddle::model {
namespace {

sublayer::Params attention(const AttentionShape& shape, float eps, double theta, int64_t rotary) {
  sublayer::Params params = attention_params(shape, eps);
  params.set("rope_rotary", rotary).set("rope_theta", theta);
  return params;
}

ModelSpec base(std::string arch, int64_t vocab, int64_t width, int64_t context, float eps) {
  ModelSpec spec;
  spec.arch = std::move(arch);
  spec.vocab_size = vocab;
  spec.d_model = width;
  spec.context_length = context;
  spec.norm_eps = eps;
  spec.tied = true;
  return spec;
}

ModelSpec smollm2_135m() {
  ModelSpec spec = base("llama", 49152, 576, 8192, 1e-5f);
  spec.layers.assign(30,
                     decoder_layer(spec, "full_attention",
                                   attention({576, 9, 3, 64, 64}, spec.norm_eps, 1e5, 64), 1536));
  return spec;
}

ModelSpec gemma3_270m() {
  ModelSpec spec = base("gemma3", 262144, 640, 32768, 1e-6f);
  spec.embed_scale = std::sqrt(640.0f);
  spec.embed_scale_rounded = true;
  for (int64_t i = 0; i < 18; ++i) {
    const bool full = (i + 1) % 6 == 0;
    sublayer::Params params =
        attention({640, 4, 1, 256, 256}, spec.norm_eps, full ? 1e6 : 1e4, 256);
    params.set("qk_norm", std::string("head"));
    if (!full) params.set("window", int64_t{512});
    spec.layers.push_back(decoder_layer(spec, full ? "full_attention" : "sliding_window",
                                        std::move(params), 2048, true, "gelu_tanh"));
  }
  return spec;
}

ModelSpec lfm2_350m() {
  ModelSpec spec = base("lfm2", 65536, 1024, 128000, 1e-5f);
  constexpr int64_t kAttention[] = {2, 5, 8, 10, 12, 14};
  const sublayer::Params conv({{"d_model", int64_t{1024}}, {"taps", int64_t{3}}});
  sublayer::Params full = attention({1024, 16, 8, 64, 64}, spec.norm_eps, 1e6, 64);
  full.set("qk_norm", std::string("head"));
  spec.layers.assign(16, decoder_layer(spec, "short_conv", conv, 4608));
  for (const int64_t i : kAttention)
    spec.layers[static_cast<size_t>(i)] = decoder_layer(spec, "full_attention", full, 4608);
  return spec;
}

ModelSpec qwen35_08b() {
  ModelSpec spec = base("qwen3_5", 248320, 1024, 262144, 1e-6f);
  const sublayer::Params delta({{"d_model", int64_t{1024}},
                                {"key_heads", int64_t{16}},
                                {"value_heads", int64_t{16}},
                                {"key_dim", int64_t{128}},
                                {"value_dim", int64_t{128}},
                                {"taps", int64_t{4}},
                                {"norm_eps", 1e-6}});
  sublayer::Params full = attention({1024, 8, 2, 256, 256}, spec.norm_eps, 1e7, 64);
  full.set("qk_norm", std::string("head")).set("output_gate", true);
  for (int64_t i = 0; i < 24; ++i) {
    const bool linear = (i + 1) % 4 != 0;
    spec.layers.push_back(decoder_layer(spec, linear ? "gated_delta_net" : "full_attention",
                                        linear ? delta : full, 3584));
  }
  return spec;
}

struct Entry {
  std::string_view name;
  ModelSpec (*make)();
};
constexpr Entry kPresets[] = {{"smollm2-135m", smollm2_135m},
                              {"gemma3-270m", gemma3_270m},
                              {"lfm2-350m", lfm2_350m},
                              {"qwen35-0.8b", qwen35_08b}};

// Fills rows of random values of one type; a value depends on (seed, its place) only.
class RandomMatrix {
 public:
  RandomMatrix(DType dtype, uint64_t seed, float deviation)
      : dtype_(dtype), seed_(seed), deviation_(deviation) {}

  void fill(std::byte* out, int64_t bytes, ThreadPool& pool) const {
    const DTypeInfo& info = dtype_info(dtype_);
    const int64_t unit = info.quantized ? info.block_bytes : 2;
    pool.parallel_for(bytes / unit, 4096, [&](int64_t begin, int64_t end, int) {
      if (info.quantized) {
        for (int64_t b = begin; b < end; ++b) block(out + b * unit, b, unit);
      } else {
        for (int64_t i = begin; i < end; ++i) plain(out + i * unit, i);
      }
    });
  }

 private:
  void plain(std::byte* out, int64_t index) const {
    const uint64_t bits = random_u64(seed_, static_cast<uint64_t>(index) / 4);
    const auto half = static_cast<int16_t>(bits >> (index % 4 * 16));
    const float value = static_cast<float>(half) * (1.7320508f / 32768.0f) * deviation_;
    const uint16_t stored = dtype_ == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
    std::memcpy(out, &stored, 2);
  }

  // Random codes, then the scales that give the deviation: codes of b bits are uniform.
  void block(std::byte* out, int64_t index, int64_t bytes) const {
    for (int64_t i = 0; i < bytes; i += 8) {
      const uint64_t bits = random_u64(seed_, static_cast<uint64_t>(index * 32 + i / 8));
      std::memcpy(out + i, &bits, static_cast<size_t>(std::min<int64_t>(8, bytes - i)));
    }
    if (dtype_ == DType::q6_k) {
      constexpr int64_t kScales = 192, kScale = 208;  // 16 int8 scales, then the float16 one
      std::memset(out + kScales, 16, 16);
      set_scale(out + kScale, deviation_ / 18.5f / 16.0f);
    } else {
      set_scale(out, deviation_ / (dtype_ == DType::q4_0 ? 4.6f : 74.0f));
    }
  }
  static void set_scale(std::byte* out, float scale) {
    const uint16_t half = f32_to_f16(scale);
    std::memcpy(out, &half, 2);
  }

  DType dtype_;
  uint64_t seed_;
  float deviation_;
};

class RandomWeights : public Weights {
 public:
  RandomWeights(const ModelSpec& spec, DType dtype, uint64_t seed, ThreadPool& pool)
      : spec_(spec), dtype_(dtype), seed_(seed), pool_(pool) {}

  Result<ops::MatrixSource> matrix(Owner owner, const sublayer::WeightSpec& weight) override {
    const std::vector<int64_t>& shape = weight.shape;
    if (shape.size() != 2) return fail("weight {} is not a matrix", weight.name);
    const bool table = owner.layer < 0;
    DType dtype = dtype_;
    if (table && dtype == DType::q4_0) dtype = shape[1] % 256 == 0 ? DType::q6_k : DType::q8_0;
    if (shape[1] % dtype_info(dtype).block_elements != 0) dtype = DType::bf16;
    buffers_.emplace_back(static_cast<size_t>(dtype_bytes(dtype, shape[0] * shape[1])));
    std::vector<std::byte>& buffer = buffers_.back();
    RandomMatrix(dtype, key(owner, weight.name), static_cast<float>(weight.deviation()))
        .fill(buffer.data(), static_cast<int64_t>(buffer.size()), pool_);
    ops::MatrixSource source;
    source.data = buffer.data();
    source.dtype = dtype;
    source.rows = shape[0];
    source.cols = shape[1];
    return source;
  }

  Result<std::vector<float>> values(Owner owner, const sublayer::WeightSpec& weight) override {
    Rng rng(key(owner, weight.name));
    return sublayer::draw(weight, rng);
  }

  void release() override { buffers_.clear(); }

  Hash128 hash() const override {
    std::string text = fmt::format("random {} {} {} {}", spec_.arch, spec_.layers.size(),
                                   dtype_info(dtype_).name, seed_);
    for (const LayerSpec& layer : spec_.layers)
      for (const SubLayerSpec& sub : layer.sub) text += " " + sub.kind + sub.params.text();
    return hash128(std::as_bytes(std::span(text)));
  }

 private:
  uint64_t key(Owner owner, std::string_view name) const {
    return hash64(std::as_bytes(std::span(name.data(), name.size())),
                  mix64(seed_) + static_cast<uint64_t>(owner.layer + 1));
  }

  ModelSpec spec_;
  DType dtype_;
  uint64_t seed_;
  ThreadPool& pool_;
  std::vector<std::vector<std::byte>> buffers_;
};

}  // namespace

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kPresets) names.push_back(entry.name);
  return names;
}

Result<Preset> parse_preset(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  Preset preset;
  if (colon != text.npos) {
    const auto dtype = dtype_from_name(text.substr(colon + 1));
    constexpr DType kAllowed[] = {DType::bf16, DType::f16, DType::q8_0, DType::q4_0};
    if (!dtype || std::find(std::begin(kAllowed), std::end(kAllowed), *dtype) == std::end(kAllowed))
      return fail("preset type {}: expected bf16, f16, q8_0 or q4_0", text.substr(colon + 1));
    preset.dtype = *dtype;
  }
  std::string known;
  for (const Entry& entry : kPresets) {
    if (entry.name == name) {
      preset.spec = entry.make();
      preset.spec.name = text;
      return preset;
    }
    known += known.empty() ? "" : ", ";
    known += entry.name;
  }
  return fail("unknown preset {}; expected one of {}", name, known);
}

std::unique_ptr<Weights> random_weights(const ModelSpec& spec, DType dtype, uint64_t seed,
                                        ThreadPool& pool) {
  return std::make_unique<RandomWeights>(spec, dtype, seed, pool);
}

}  // namespace heddle::model
