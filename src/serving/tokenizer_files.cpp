#include "serving/tokenizer_files.h"

#include <filesystem>

#include "model/files/gguf.h"
#include "text/tokenizer/tokenizer_json.h"

namespace heddle::serving {
namespace {

std::optional<int64_t> id_of(const model::GgufFile& file, std::string_view name) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  if (!file.has(key)) return std::nullopt;
  return file.integer_or(key, -1);
}

std::optional<bool> flag_of(const model::GgufFile& file, std::string_view name) {
  const std::string key = fmt::format("tokenizer.ggml.{}", name);
  if (!file.has(key)) return std::nullopt;
  return file.flag_or(key, false);
}

text::GgufTokenizerMetadata tokenizer_metadata(const model::GgufFile& file) {
  text::GgufTokenizerMetadata metadata;
  metadata.model = file.text_or("tokenizer.ggml.model", "");
  metadata.pre = file.text_or("tokenizer.ggml.pre", "");
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  metadata.tokens.assign(tokens.begin(), tokens.end());
  metadata.scores = file.numbers("tokenizer.ggml.scores");
  for (const int64_t type : file.integers("tokenizer.ggml.token_type"))
    metadata.types.push_back(static_cast<int32_t>(type));
  const auto merges = file.strings("tokenizer.ggml.merges");
  metadata.merges.assign(merges.begin(), merges.end());
  metadata.bos = id_of(file, "bos");
  metadata.eos = id_of(file, "eos");
  metadata.eot = id_of(file, "eot");
  metadata.eom = id_of(file, "eom");
  metadata.unknown = id_of(file, "unknown");
  metadata.padding = id_of(file, "padding");
  metadata.add_bos = flag_of(file, "add_bos_token");
  metadata.add_eos = flag_of(file, "add_eos_token");
  metadata.add_space_prefix = flag_of(file, "add_space_prefix");
  metadata.remove_extra_whitespaces = flag_of(file, "remove_extra_whitespaces");
  metadata.chat_template = file.text_or("tokenizer.chat_template", "");
  constexpr std::string_view kNamed = "tokenizer.chat_template.";
  for (const auto& [key, value] : file.metadata())
    if (key.starts_with(kNamed) && std::holds_alternative<std::string_view>(value))
      metadata.named_templates[key.substr(kNamed.size())] = std::get<std::string_view>(value);
  metadata.model_name = file.text_or("general.name", "");
  return metadata;
}

Result<text::Tokenizer> tokenizer_of(const model::GgufFile& file) {
  auto vocabulary = text::vocabulary_from_gguf(tokenizer_metadata(file));
  if (!vocabulary) return fail("{}: {}", file.path(), vocabulary.error().message);
  return text::Tokenizer::create(std::move(*vocabulary));
}

}  // namespace

Result<text::Tokenizer> load_tokenizer(const std::string& path) {
  if (std::filesystem::is_directory(path)) {
    HEDDLE_TRY(auto vocabulary, text::vocabulary_from_directory(path));
    return text::Tokenizer::create(std::move(vocabulary));
  }
  HEDDLE_TRY(const auto file, model::GgufFile::open(path));
  return tokenizer_of(file);
}

Result<text::Tokenizer> load_tokenizer(const model::Checkpoint& checkpoint) {
  return checkpoint.gguf() != nullptr ? tokenizer_of(*checkpoint.gguf())
                                      : load_tokenizer(checkpoint.path());
}

}  // namespace heddle::serving
