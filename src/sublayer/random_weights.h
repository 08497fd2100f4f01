#pragma once
// Random weights of a design, drawn as it and a case say, the matrices in the case's type: what
// tests and benches bind.
#include <map>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "sublayer/sublayer.h"

namespace heddle::sublayer {

class RandomWeights : public WeightSource {
 public:
  RandomWeights(const Design& design, uint64_t seed, const Case& from = {});
  Result<ops::MatrixSource> matrix(std::string_view name) override;
  Result<std::vector<float>> values(std::string_view name) override;

 private:
  struct Weight {
    std::vector<int64_t> shape;
    std::vector<float> values;
    DType dtype = DType::f32;
    std::vector<std::byte> stored;  // of another type than float32
  };
  Result<const Weight*> find(std::string_view name) const;
  std::map<std::string, Weight, std::less<>> weights_;
};

}  // namespace heddle::sublayer
