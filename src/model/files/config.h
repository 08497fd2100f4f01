#pragma once
// A model's configuration as a flat map from names to scalars and lists, read from a Hugging Face
// config.json (nested names joined with dots: "rope_parameters.rope_theta"; the contents of
// "text_config" lie at the top) or from GGUF metadata (without the architecture's prefix:
// "attention.head_count"). Families read it and never see a file format.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace heddle::model {

class GgufFile;

class Config {
 public:
  using Scalar = std::variant<bool, int64_t, double, std::string>;
  using List = std::vector<Scalar>;

  // `name` appears in messages.
  static Result<Config> from_json(std::string_view text, const std::string& name);
  static Config from_gguf(const GgufFile& file);

  const std::string& name() const { return name_; }
  bool has(std::string_view key) const { return values_.find(key) != values_.end(); }

  // Required: the message names the file and the key.
  Result<int64_t> size(std::string_view key) const;   // a size: 1 to 2^31 - 1
  Result<double> number(std::string_view key) const;  // finite
  Result<std::string> text(std::string_view key) const;

  // Optional: the fallback when the key is absent (or null); an error when it is of another kind.
  Result<int64_t> size_or(std::string_view key, int64_t fallback) const;
  Result<int64_t> integer_or(std::string_view key, int64_t fallback) const;
  Result<double> number_or(std::string_view key, double fallback) const;
  Result<bool> flag_or(std::string_view key, bool fallback) const;
  Result<std::string> text_or(std::string_view key, std::string_view fallback) const;
  // Empty when absent. A scalar is a list of one.
  Result<std::vector<int64_t>> integers(std::string_view key) const;
  Result<std::vector<std::string>> texts(std::string_view key) const;

  // All values as text in order of name: what an identity hashes.
  std::string canonical() const;

 private:
  using Value = std::variant<Scalar, List>;
  const Scalar* scalar(std::string_view key) const;
  std::string name_;
  std::map<std::string, Value, std::less<>> values_;
};

}  // namespace heddle::model
