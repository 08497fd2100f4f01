// What loading makes of a specification and the types of its weights.
#include <gtest/gtest.h>

#include <cmath>

#include "model/weights.h"

namespace heddle::model {
namespace {

// One rule for both formats of files: the scale has the type that embeddings are computed in.
TEST(EmbedScale, HasTheTypeOfTheComputation) {
  ModelSpec spec;
  spec.embed_scale = std::sqrt(96.0f);
  spec.embed_scale_rounded = true;
  EXPECT_EQ(loaded_embed_scale(spec, DType::bf16, {}), 9.8125f);
  EXPECT_EQ(loaded_embed_scale(spec, DType::f16, {}), 9.796875f);
  EXPECT_EQ(loaded_embed_scale(spec, DType::f32, {}), spec.embed_scale);
  EXPECT_EQ(loaded_embed_scale(spec, DType::q6_k, {}), spec.embed_scale);
  EXPECT_EQ(loaded_embed_scale(spec, DType::bf16, {.full_precision = true}), spec.embed_scale);
  EXPECT_EQ(loaded_embed_scale(spec, DType::bf16, {.quantize = DType::q8_0}), spec.embed_scale);
  spec.embed_scale_rounded = false;
  EXPECT_EQ(loaded_embed_scale(spec, DType::bf16, {}), spec.embed_scale);
}

}  // namespace
}  // namespace heddle::model
