#pragma once
// Tokenizers from the files of a model.
#include <string>

#include "model/files/checkpoint.h"
#include "text/tokenizer/tokenizer.h"

namespace heddle::serving {

// The tokenizer of a model directory or GGUF file. Errors name the file and what is not supported.
Result<text::Tokenizer> load_tokenizer(const std::string& path);
Result<text::Tokenizer> load_tokenizer(const model::Checkpoint& checkpoint);

}  // namespace heddle::serving
