// Layers as lists of sub-layers: norms, scales, pure stacks, sub-layers in parallel.
#include "model/design.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "model/family_common.h"
#include "model/score.h"
#include "model/weights.h"
#include "ops/elementwise/activation.h"
#include "ops/elementwise/norm.h"
#include "test/support/step.h"

namespace heddle::model {
namespace {

constexpr int64_t kWidth = 32;
constexpr int64_t kVocabulary = 40;

ModelSpec empty_spec() {
  ModelSpec spec;
  spec.arch = "llama";
  spec.vocab_size = kVocabulary;
  spec.d_model = kWidth;
  spec.context_length = 256;
  spec.norm_eps = 1e-5f;
  return spec;
}

SubLayerSpec attention(const char* pre_norm) {
  SubLayerSpec sub;
  sub.kind = "full_attention";
  sub.params = attention_params({kWidth, 4, 2, 8, 8}, 1e-5f);
  sub.pre_norm = pre_norm;
  return sub;
}

SubLayerSpec feed_forward(const char* pre_norm) {
  SubLayerSpec sub;
  sub.kind = "gated";
  sub.params = sublayer::Params({{"d_model", kWidth}, {"width", int64_t{48}}});
  sub.pre_norm = pre_norm;
  return sub;
}

LayerSpec layer(std::vector<SubLayerSpec> sub) {
  LayerSpec result;
  result.sub = std::move(sub);
  return result;
}

std::vector<int32_t> text(int64_t tokens) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(i * 7 % static_cast<size_t>(kVocabulary));
  return ids;
}

std::vector<float> logits_of(const ModelSpec& spec, ThreadPool& pool, int64_t chunk) {
  const auto weights = random_weights(spec, DType::bf16, 5, pool);
  const auto model = Model::from_weights(spec, *weights, {.full_precision = true}, pool);
  EXPECT_TRUE(model.has_value()) << (model ? "" : model.error().message);
  if (!model) return {};
  std::vector<float> all;
  const Status done = run_logits(**model, pool, text(70), {.chunk = chunk},
                                 [&](int64_t, int64_t count, const float* rows) {
                                   all.insert(all.end(), rows, rows + count * kVocabulary);
                                 });
  EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().message);
  return all;
}

// One sub-layer's weights out of those of a model.
class Source : public sublayer::WeightSource {
 public:
  Source(Weights& weights, const SubLayerDesign& design) : weights_(weights), design_(design) {}
  Result<ops::MatrixSource> matrix(std::string_view name) override {
    return weights_.matrix(design_.owner, weight(name));
  }
  Result<std::vector<float>> values(std::string_view name) override {
    return weights_.values(design_.owner, weight(name));
  }

 private:
  const sublayer::WeightSpec& weight(std::string_view name) const {
    return *std::find_if(design_.weights.begin(), design_.weights.end(),
                         [&](const auto& weight) { return weight.name == name; });
  }
  Weights& weights_;
  const SubLayerDesign& design_;
};

// The formulas of spec.h over the sub-layers of a model, each run by itself.
class ByHand {
 public:
  ByHand(const ModelSpec& spec, ThreadPool& pool)
      : spec_(spec),
        pool_(pool),
        weights_(random_weights(spec, DType::bf16, 5, pool)),
        design_(*make_design(spec, {.records = DType::f32})) {}

  std::vector<float> logits(const std::vector<int32_t>& ids) {
    const std::vector<sublayer::WeightSpec> own = model_weights(spec_);
    const ops::PackedMatrix embed = pack(*weights_->matrix({}, own[0]));
    const ops::PackedMatrix head = pack(*weights_->matrix({}, own[1]));
    tokens_ = std::ssize(ids);
    state::SequenceState sequence(design_.layout, blocks_);
    const test::StepLayout step({{&sequence, ids, 0, {}}}, design_.layout,
                                [&](int32_t token, int64_t) {
                                  std::vector<float> row(kWidth);
                                  embed.dequantize_row(token, row.data());
                                  for (float& value : row) value *= spec_.embed_scale;
                                  return row;
                                });
    std::vector<float> x(step.x(), step.x() + tokens_ * kWidth);
    std::vector<float> read;
    for (const SubLayerDesign& sub : design_.sub) {
      if (!sub.spec->parallel) read = x;
      const std::vector<float> y = run(sub, step, read);
      ops::add(context_, {{y.data(), tokens_, kWidth},
                          {x.data(), tokens_, kWidth},
                          sub.spec->residual_scale,
                          sub.spec->input_scale});
    }
    std::vector<float> last = *weights_->values({}, own[2]);
    for (float& value : last) value *= spec_.logit_scale;
    x = norm(x, last);
    std::vector<float> logits(static_cast<size_t>(tokens_ * kVocabulary));
    ops::matmul(context_, {x.data(), tokens_, kWidth}, head, {logits.data(), tokens_, kVocabulary});
    return logits;
  }

 private:
  ops::PackedMatrix pack(const ops::MatrixSource& source) {
    return *ops::pack(pool_, {&source, 1}, {.full_precision = true, .memory = &memory_});
  }
  std::vector<float> norm(const std::vector<float>& x, const std::vector<float>& weight) {
    std::vector<float> y(x.size());
    ops::rms_norm(context_, {.x = x.data(),
                             .x_stride = kWidth,
                             .rows = tokens_,
                             .width = kWidth,
                             .weight = weight.data(),
                             .eps = spec_.norm_eps,
                             .y = y.data(),
                             .y_stride = kWidth});
    return y;
  }
  std::vector<float> run(const SubLayerDesign& sub, const test::StepLayout& step,
                         std::vector<float> x) {
    Source source(*weights_, sub);
    const auto body =
        *sub.design->bind(pool_, source, {.full_precision = true, .memory = &memory_});
    if (!sub.spec->pre_norm.empty()) x = norm(x, *source.values(sub.spec->pre_norm));
    std::vector<float> y(x.size());
    const state::StateView all = step.state();
    body->forward(context_, step.batch(), {x.data(), tokens_, kWidth},
                  {all.views.subspan(static_cast<size_t>(sub.first_part)), all.parts},
                  {y.data(), tokens_, kWidth});
    return sub.spec->post_norm.empty() ? y : norm(y, *source.values(sub.spec->post_norm));
  }

  const ModelSpec& spec_;
  ThreadPool& pool_;
  backend::WeightMemory memory_;
  backend::Arena scratch_;
  backend::Context context_{pool_, scratch_};
  std::unique_ptr<Weights> weights_;
  ModelDesign design_;
  state::BlockPool blocks_;
  int64_t tokens_ = 0;
};

TEST(SubLayers, NormsScalesAndParallelOnesFollowTheFormula) {
  ThreadPool pool(2);
  ModelSpec spec = empty_spec();
  spec.embed_scale = 3;
  spec.logit_scale = 0.25f;
  SubLayerSpec beside = feed_forward("shared");
  beside.parallel = true;
  beside.residual_scale = 0.5f;
  SubLayerSpec first = attention("shared");
  first.post_norm = "after";
  first.input_scale = 2;
  spec.layers = {layer({first, beside}), layer({attention("alone")}),
                 layer({attention(""), feed_forward("before")})};
  const std::vector<float> want = ByHand(spec, pool).logits(text(70));
  const std::vector<float> got = logits_of(spec, pool, 70);
  ASSERT_EQ(got.size(), want.size());
  EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0);
  const std::vector<float> chunks = logits_of(spec, pool, 9);
  EXPECT_EQ(std::memcmp(chunks.data(), want.data(), want.size() * sizeof(float)), 0);
}

TEST(SubLayers, APureStackAsksForNoFeedForward) {
  ModelSpec spec = empty_spec();
  spec.layers = {layer({attention("norm")}), layer({attention("norm")})};
  const auto design = make_design(spec, {});
  ASSERT_TRUE(design.has_value()) << design.error().message;
  for (const SubLayerDesign& sub : design->sub)
    for (const sublayer::WeightSpec& weight : sub.weights)
      EXPECT_EQ(weight.name.find("ffn"), std::string::npos);
  ThreadPool pool(2);
  EXPECT_EQ(logits_of(spec, pool, 1), logits_of(spec, pool, 64));
}

TEST(SubLayers, SeveralThatKeepStateShareALayer) {
  ModelSpec spec = empty_spec();
  SubLayerSpec conv;
  conv.kind = "short_conv";
  conv.params = sublayer::Params({{"d_model", kWidth}, {"taps", int64_t{3}}});
  conv.pre_norm = "norm";
  conv.parallel = true;
  spec.layers = {layer({attention("norm"), conv})};
  const auto design = make_design(spec, {});
  ASSERT_TRUE(design.has_value()) << design.error().message;
  EXPECT_EQ(design->layout.entries[2].part.name, "short_conv.conv");
  ThreadPool pool(2);
  EXPECT_EQ(logits_of(spec, pool, 5), logits_of(spec, pool, 70));
}

TEST(SubLayers, WhatMakesNoModelIsRefusedWithTheReason) {
  const auto reason = [](std::vector<LayerSpec> layers) {
    ModelSpec spec = empty_spec();
    spec.layers = std::move(layers);
    const auto design = make_design(spec, {});
    return design ? std::string() : design.error().message;
  };
  EXPECT_NE(reason({layer({feed_forward("norm")})}).find("keeps state"), std::string::npos);
  EXPECT_NE(reason({layer({attention("a"), attention("b")})}).find("q_proj"), std::string::npos);
  SubLayerSpec misspelt = attention("norm");
  misspelt.params.set("rope_thetta", 1e6);
  EXPECT_NE(reason({layer({misspelt})}).find("unknown parameter rope_thetta; it knows d_model"),
            std::string::npos);
  SubLayerSpec unknown = attention("norm");
  unknown.kind = "wishful";
  EXPECT_NE(reason({layer({unknown})}).find("gated"), std::string::npos);
}

}  // namespace
}  // namespace heddle::model
