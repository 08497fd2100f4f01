#pragma once
// The parts of tokenizer.json that become steps of a Vocabulary. Only tokenizer_json.cpp includes
// this.
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "text/tokenizer/vocabulary.h"

namespace heddle::text {

using Json = nlohmann::json;

// Fields with defaults; a field of the wrong kind is an error that names it.
Result<std::string> json_string(const Json& object, const char* key, const char* where);
Result<bool> json_flag(const Json& object, const char* key, bool fallback, const char* where);

Status read_normalizer(const Json& node, std::vector<NormalizerStep>& steps);
// byte_level: set when a step puts the bytes of the text into the byte alphabet.
Status read_pre_tokenizer(const Json& node, std::vector<PreTokenizerStep>& steps, bool& byte_level);
Status read_decoder(const Json& node, std::vector<DecoderStep>& steps);
// The tokens before and after a single text.
Status read_post_processor(const Json& node, Vocabulary& vocabulary);

}  // namespace heddle::text
