#pragma once
// Hugging Face's tokenizer.json and the files beside it.
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/tokenizer/vocabulary.h"

namespace heddle::text {

// The contents of the files; empty where there is none.
struct TokenizerFiles {
  std::string tokenizer;         // tokenizer.json
  std::string tokenizer_config;  // tokenizer_config.json: bos, eos, chat template
  std::string
      special_tokens_map;  // special_tokens_map.json: bos, eos where tokenizer_config.json has none
  std::string generation_config;  // generation_config.json: every eos
  std::string chat_template;  // chat_template.jinja: goes before the one in tokenizer_config.json
};

// BPE models (byte-level, or over characters with byte fallback). What is not supported is refused
// by name, and so is a file that contradicts itself.
Result<Vocabulary> vocabulary_from_json(const TokenizerFiles& files);

// The same from a model directory.
Result<Vocabulary> vocabulary_from_directory(const std::filesystem::path& directory);

}  // namespace heddle::text
