#include "text/tokenizer/tokenizer_json_steps.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "text/tokenizer/regex.h"

namespace heddle::text {
namespace {

constexpr int kDeepest = 8;  // of sequences inside sequences
constexpr const char* kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Result<std::string> type_of(const Json& node, const char* where) {
  if (!node.is_object()) return fail("tokenizer.json: {}: expected an object", where);
  return json_string(node, "type", where);
}

Result<const Json*> list(const Json& node, const char* key, const char* where) {
  const auto it = node.find(key);
  if (it == node.end() || !it->is_array()) {
    return fail("tokenizer.json: {}: expected a list '{}'", where, key);
  }
  return &*it;
}

// {"String": ...} or {"Regex": ...}; exactly one of the two is filled.
struct Pattern {
  std::string literal;
  std::string regex;
};
Result<Pattern> read_pattern(const Json& node, const char* where) {
  const auto it = node.find("pattern");
  Pattern pattern;
  if (it != node.end() && it->is_object()) {
    for (const auto& [key, value] : it->items()) {
      if (!value.is_string()) break;
      if (key == "String") pattern.literal = value.get<std::string>();
      if (key == "Regex") pattern.regex = value.get<std::string>();
    }
  } else if (it != node.end() && it->is_string()) {
    pattern.literal = it->get<std::string>();
  }
  if (pattern.literal.empty() == pattern.regex.empty()) {
    return fail("tokenizer.json: {}: expected a pattern {{\"String\": ...}} or {{\"Regex\": ...}}",
                where);
  }
  return pattern;
}

Result<SplitBehavior> behavior_of(const std::string& name, const char* where) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return fail("tokenizer.json: {}: behavior '{}' is not supported", where, name);
}

Result<PrependScheme> prepend_scheme(const Json& node, const char* where) {
  if (node.contains("prepend_scheme")) {
    HEDDLE_TRY(const std::string scheme, json_string(node, "prepend_scheme", where));
    if (scheme == "always") return PrependScheme::kAlways;
    if (scheme == "first") return PrependScheme::kFirst;
    if (scheme == "never") return PrependScheme::kNever;
    return fail("tokenizer.json: {}: prepend_scheme '{}' is not supported", where, scheme);
  }
  HEDDLE_TRY(const bool prefix, json_flag(node, "add_prefix_space", true, where));
  return prefix ? PrependScheme::kAlways : PrependScheme::kNever;
}

Status normalizer(const Json& node, std::vector<NormalizerStep>& steps, int depth) {
  using Kind = NormalizerStep::Kind;
  constexpr const char* kWhere = "normalizer";
  HEDDLE_TRY(const std::string type, type_of(node, kWhere));
  if (type == "Sequence") {
    if (depth >= kDeepest) return fail("tokenizer.json: normalizer: sequences nested too deep");
    HEDDLE_TRY(const Json* inner, list(node, "normalizers", kWhere));
    for (const Json& child : *inner) HEDDLE_TRY_STATUS(normalizer(child, steps, depth + 1));
    return {};
  }
  NormalizerStep step;
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.kind = Kind::kUnicode;
    step.form = type == "NFC"    ? NormalizationForm::kNfc
                : type == "NFD"  ? NormalizationForm::kNfd
                : type == "NFKC" ? NormalizationForm::kNfkc
                                 : NormalizationForm::kNfkd;
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "StripAccents") {
    step.kind = Kind::kStripMarks;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    HEDDLE_TRY(step.left, json_flag(node, "strip_left", true, kWhere));
    HEDDLE_TRY(step.right, json_flag(node, "strip_right", true, kWhere));
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    HEDDLE_TRY(step.content, json_string(node, "prepend", kWhere));
  } else if (type == "Append") {
    step.kind = Kind::kAppend;
    HEDDLE_TRY(step.content, json_string(node, "append", kWhere));
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    HEDDLE_TRY(Pattern pattern, read_pattern(node, kWhere));
    step.pattern = std::move(pattern.regex);
    step.literal = std::move(pattern.literal);
    HEDDLE_TRY(step.content, json_string(node, "content", kWhere));
  } else {
    return fail("tokenizer.json: normalizer '{}' is not supported", type);
  }
  steps.push_back(std::move(step));
  return {};
}

// A split that sees the same in the byte alphabet as before it: only such ones may follow
// ByteLevel.
bool digits_only(const PreTokenizerStep& step) {
  return step.kind == PreTokenizerStep::Kind::kSplit &&
         (step.pattern == R"(\p{N})" || step.pattern == R"(\p{N}+)" ||
          std::all_of(step.pattern.begin(), step.pattern.end(), [](char c) {
            return (c >= '0' && c <= '9') || c == '[' || c == ']' || c == '-' || c == '{' ||
                   c == '}' || c == ',';
          }));
}

Status byte_level_step(const Json& node, std::vector<PreTokenizerStep>& steps) {
  HEDDLE_TRY(const bool prefix,
             json_flag(node, "add_prefix_space", true, "pre_tokenizer ByteLevel"));
  HEDDLE_TRY(const bool words, json_flag(node, "use_regex", true, "pre_tokenizer ByteLevel"));
  if (prefix) {
    PreTokenizerStep step;
    step.kind = PreTokenizerStep::Kind::kPrefixSpace;
    steps.push_back(std::move(step));
  }
  if (words) {
    PreTokenizerStep step;
    step.pattern = kGpt2Words;
    steps.push_back(std::move(step));
  }
  return {};
}

Result<PreTokenizerStep> split_step(const Json& node, const std::string& type) {
  const std::string where = "pre_tokenizer " + type;
  PreTokenizerStep step;
  if (type == "Split") {
    HEDDLE_TRY(Pattern pattern, read_pattern(node, where.c_str()));
    step.pattern = pattern.regex.empty() ? Regex::quote(pattern.literal) : pattern.regex;
    HEDDLE_TRY(step.invert, json_flag(node, "invert", false, where.c_str()));
    HEDDLE_TRY(const std::string behavior, json_string(node, "behavior", where.c_str()));
    HEDDLE_TRY(step.behavior, behavior_of(behavior, where.c_str()));
  } else if (type == "Digits") {
    HEDDLE_TRY(const bool single, json_flag(node, "individual_digits", false, where.c_str()));
    step.pattern = single ? R"(\p{N})" : R"(\p{N}+)";
  } else if (type == "Punctuation") {
    step.pattern = R"([\p{P}!-/:-@\[-`{-~])";
    if (node.contains("behavior")) {
      HEDDLE_TRY(const std::string behavior, json_string(node, "behavior", where.c_str()));
      HEDDLE_TRY(step.behavior, behavior_of(behavior, where.c_str()));
    }
  } else if (type == "Whitespace") {
    step.pattern = R"(\w+|[^\w\s]+)";
    step.behavior = SplitBehavior::kRemoved;
    step.invert = true;
  } else if (type == "WhitespaceSplit") {
    step.pattern = R"(\s+)";
    step.behavior = SplitBehavior::kRemoved;
  } else if (type == "CharDelimiterSplit") {
    HEDDLE_TRY(const std::string delimiter, json_string(node, "delimiter", where.c_str()));
    step.pattern = Regex::quote(delimiter);
    step.behavior = SplitBehavior::kRemoved;
  } else if (type == "Metaspace") {
    step.kind = PreTokenizerStep::Kind::kMetaspace;
    HEDDLE_TRY(step.replacement, json_string(node, "replacement", where.c_str()));
    HEDDLE_TRY(step.prepend, prepend_scheme(node, where.c_str()));
    HEDDLE_TRY(step.split, json_flag(node, "split", true, where.c_str()));
    if (step.replacement.empty())
      return fail("tokenizer.json: {}: the replacement is empty", where);
  } else {
    return fail("tokenizer.json: pre_tokenizer '{}' is not supported", type);
  }
  return step;
}

Status pre_tokenizer(const Json& node, std::vector<PreTokenizerStep>& steps, bool& byte_level,
                     int depth) {
  constexpr const char* kWhere = "pre_tokenizer";
  HEDDLE_TRY(const std::string type, type_of(node, kWhere));
  if (type == "Sequence") {
    if (depth >= kDeepest) return fail("tokenizer.json: pre_tokenizer: sequences nested too deep");
    HEDDLE_TRY(const Json* inner, list(node, "pretokenizers", kWhere));
    for (const Json& child : *inner) {
      HEDDLE_TRY_STATUS(pre_tokenizer(child, steps, byte_level, depth + 1));
    }
    return {};
  }
  if (type == "ByteLevel") {
    if (byte_level) return fail("tokenizer.json: pre_tokenizer: ByteLevel stands twice");
    byte_level = true;
    return byte_level_step(node, steps);
  }
  HEDDLE_TRY(PreTokenizerStep step, split_step(node, type));
  if (byte_level && !digits_only(step)) {
    return fail("tokenizer.json: pre_tokenizer '{}' after ByteLevel is not supported", type);
  }
  steps.push_back(std::move(step));
  return {};
}

Status decoder(const Json& node, std::vector<DecoderStep>& steps, int depth) {
  using Kind = DecoderStep::Kind;
  constexpr const char* kWhere = "decoder";
  HEDDLE_TRY(const std::string type, type_of(node, kWhere));
  if (type == "Sequence") {
    if (depth >= kDeepest) return fail("tokenizer.json: decoder: sequences nested too deep");
    HEDDLE_TRY(const Json* inner, list(node, "decoders", kWhere));
    for (const Json& child : *inner) HEDDLE_TRY_STATUS(decoder(child, steps, depth + 1));
    return {};
  }
  DecoderStep step;
  if (type == "Fuse") return {};  // joins the texts of the tokens, as decoding here always does
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteTokens;
  } else if (type == "Replace") {
    HEDDLE_TRY(Pattern pattern, read_pattern(node, kWhere));
    if (pattern.literal.empty()) {
      return fail("tokenizer.json: decoder 'Replace' with a regular expression is not supported");
    }
    step.kind = Kind::kReplace;
    step.pattern = std::move(pattern.literal);
    HEDDLE_TRY(step.content, json_string(node, "content", kWhere));
  } else if (type == "Strip") {
    HEDDLE_TRY(step.content, json_string(node, "content", kWhere));
    const Json start = node.value("start", Json(0));
    const Json stop = node.value("stop", Json(0));
    if (step.content != " " || !start.is_number_integer() || start < 0 || start > 1024 ||
        stop != 0) {
      return fail("tokenizer.json: decoder 'Strip' is supported for spaces at the start only");
    }
    step.kind = Kind::kStripFirst;
    step.count = start.get<int32_t>();
  } else if (type == "Metaspace") {
    step.kind = Kind::kReplace;
    HEDDLE_TRY(step.pattern, json_string(node, "replacement", kWhere));
    step.content = " ";
    if (step.pattern.empty())
      return fail("tokenizer.json: decoder 'Metaspace': the replacement is empty");
    HEDDLE_TRY(const PrependScheme scheme, prepend_scheme(node, kWhere));
    if (scheme != PrependScheme::kNever) {
      steps.push_back(std::move(step));
      step = {};
      step.kind = Kind::kStripFirst;
      step.content = " ";
      step.count = 1;
    }
  } else {
    return fail("tokenizer.json: decoder '{}' is not supported", type);
  }
  steps.push_back(std::move(step));
  return {};
}

// The ids that a template's special token stands for.
Status template_ids(const Json& node, const std::string& name, std::vector<int32_t>& out) {
  const auto special = node.find("special_tokens");
  if (special != node.end() && special->is_object() && special->contains(name)) {
    const Json& entry = (*special)[name];
    if (entry.is_object() && entry.contains("ids") && entry["ids"].is_array()) {
      for (const Json& id : entry["ids"]) {
        if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
          return fail("tokenizer.json: post_processor: the ids of '{}' are no token ids", name);
        }
        out.push_back(id.get<int32_t>());
      }
      return {};
    }
  }
  return fail("tokenizer.json: post_processor: no ids for the special token '{}'", name);
}

Status template_processing(const Json& node, Vocabulary& v) {
  HEDDLE_TRY(const Json* single, list(node, "single", "post_processor TemplateProcessing"));
  bool before = true;
  for (const Json& piece : *single) {
    if (piece.is_object() && piece.contains("Sequence")) {
      if (!before)
        return fail("tokenizer.json: post_processor: the text stands twice in the template");
      before = false;
      continue;
    }
    if (!piece.is_object() || !piece.contains("SpecialToken") ||
        !piece["SpecialToken"].is_object()) {
      return fail("tokenizer.json: post_processor: expected SpecialToken or Sequence");
    }
    HEDDLE_TRY(const std::string name,
               json_string(piece["SpecialToken"], "id", "post_processor SpecialToken"));
    HEDDLE_TRY_STATUS(template_ids(node, name, before ? v.prefix : v.suffix));
  }
  if (before) return fail("tokenizer.json: post_processor: the template has no place for the text");
  return {};
}

// ["<s>", 0]
Result<int32_t> pair_id(const Json& node, const char* key) {
  const auto it = node.find(key);
  if (it == node.end() || !it->is_array() || it->size() != 2 || !(*it)[1].is_number_integer() ||
      (*it)[1] < 0 || (*it)[1] > INT32_MAX) {
    return fail("tokenizer.json: post_processor: expected '{}' as a list of token and id", key);
  }
  return (*it)[1].get<int32_t>();
}

Status post_processor(const Json& node, Vocabulary& v, int depth) {
  HEDDLE_TRY(const std::string type, type_of(node, "post_processor"));
  if (type == "Sequence") {
    if (depth >= kDeepest) return fail("tokenizer.json: post_processor: sequences nested too deep");
    HEDDLE_TRY(const Json* inner, list(node, "processors", "post_processor"));
    for (const Json& child : *inner) HEDDLE_TRY_STATUS(post_processor(child, v, depth + 1));
    return {};
  }
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "TemplateProcessing") return template_processing(node, v);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    HEDDLE_TRY(const int32_t before, pair_id(node, "cls"));
    HEDDLE_TRY(const int32_t after, pair_id(node, "sep"));
    v.prefix.push_back(before);
    v.suffix.push_back(after);
    return {};
  }
  return fail("tokenizer.json: post_processor '{}' is not supported", type);
}

}  // namespace

Result<std::string> json_string(const Json& object, const char* key, const char* where) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) {
    return fail("tokenizer.json: {}: expected a string '{}'", where, key);
  }
  return it->get<std::string>();
}

Result<bool> json_flag(const Json& object, const char* key, bool fallback, const char* where) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return fallback;
  if (!it->is_boolean())
    return fail("tokenizer.json: {}: expected '{}' to be true or false", where, key);
  return it->get<bool>();
}

Status read_normalizer(const Json& node, std::vector<NormalizerStep>& steps) {
  return node.is_null() ? Status() : normalizer(node, steps, 0);
}

Status read_pre_tokenizer(const Json& node, std::vector<PreTokenizerStep>& steps,
                          bool& byte_level) {
  return node.is_null() ? Status() : pre_tokenizer(node, steps, byte_level, 0);
}

Status read_decoder(const Json& node, std::vector<DecoderStep>& steps) {
  return node.is_null() ? Status() : decoder(node, steps, 0);
}

Status read_post_processor(const Json& node, Vocabulary& vocabulary) {
  return node.is_null() ? Status() : post_processor(node, vocabulary, 0);
}

}  // namespace heddle::text
