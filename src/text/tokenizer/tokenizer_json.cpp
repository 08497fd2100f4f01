#include "text/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "text/tokenizer/tokenizer_json_steps.h"

namespace heddle::text {
namespace {

constexpr int64_t kLargestId =
    16'000'000;  // a vocabulary is a dense list: a wild id must not fill memory
constexpr int64_t kHolesAllowed = 1 << 16;          // ids without a token
constexpr int64_t kLargestFile = int64_t{1} << 30;  // bytes

class JsonReader {
 public:
  explicit JsonReader(const TokenizerFiles& files) : files_(files) {}

  Result<Vocabulary> run() {
    const Json root = Json::parse(files_.tokenizer, nullptr, false);
    if (root.is_discarded() || !root.is_object()) return fail("tokenizer.json: not a JSON object");
    const auto model = root.find("model");
    if (model == root.end() || !model->is_object())
      return fail("tokenizer.json: expected an object 'model'");
    HEDDLE_TRY_STATUS(read_model(*model));
    HEDDLE_TRY_STATUS(added_tokens(root.value("added_tokens", Json::array())));
    HEDDLE_TRY_STATUS(fill_tokens());
    HEDDLE_TRY_STATUS(read_normalizer(root.value("normalizer", Json()), v_.normalizers));
    bool byte_level = false;
    HEDDLE_TRY_STATUS(
        read_pre_tokenizer(root.value("pre_tokenizer", Json()), v_.pre_tokenizers, byte_level));
    v_.kind = byte_level ? VocabularyKind::kByteLevelBpe : VocabularyKind::kCharacterBpe;
    HEDDLE_TRY_STATUS(read_decoder(root.value("decoder", Json()), v_.decoders));
    v_.decode_added_verbatim =
        std::any_of(v_.decoders.begin(), v_.decoders.end(),
                    [](const DecoderStep& s) { return s.kind == DecoderStep::Kind::kByteLevel; });
    HEDDLE_TRY_STATUS(read_post_processor(root.value("post_processor", Json()), v_));
    HEDDLE_TRY_STATUS(config());
    return std::move(v_);
  }

 private:
  Status read_model(const Json& model) {
    constexpr const char* kWhere = "model";
    const Json type = model.value("type", Json("BPE"));  // files of old versions have no type
    if (type != "BPE")
      return fail("tokenizer.json: model type {} is not supported, expected \"BPE\"", type.dump());
    if (const Json dropout = model.value("dropout", Json()); !dropout.is_null() && dropout != 0.0) {
      return fail("tokenizer.json: model: dropout is not supported: it makes tokens random");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const Json value = model.value(key, Json()); !value.is_null() && value != "") {
        return fail("tokenizer.json: model: {} {} is not supported", key, value.dump());
      }
    }
    HEDDLE_TRY(v_.ignore_merges, json_flag(model, "ignore_merges", false, kWhere));
    HEDDLE_TRY(v_.byte_fallback, json_flag(model, "byte_fallback", false, kWhere));
    HEDDLE_TRY(v_.fuse_unknown, json_flag(model, "fuse_unk", false, kWhere));
    v_.drop_unknown_first = true;
    v_.added_order = AddedTokenOrder::kLeftmostLongest;

    const auto vocab = model.find("vocab");
    if (vocab == model.end() || !vocab->is_object())
      return fail("tokenizer.json: model: expected an object 'vocab'");
    ids_.reserve(vocab->size());
    for (const auto& [text, id] : vocab->items()) {
      if (!id.is_number_integer() || id < 0 || id > kLargestId) {
        return fail("tokenizer.json: model: vocab: the id of '{}' is no id", text);
      }
      HEDDLE_TRY_STATUS(add(text, id.get<int32_t>()));
    }
    if (const Json unknown = model.value("unk_token", Json()); unknown.is_string()) {
      const auto it = ids_.find(unknown.get_ref<const std::string&>());
      if (it == ids_.end())
        return fail("tokenizer.json: model: unk_token {} is not in vocab", unknown.dump());
      v_.unknown = it->second;
    }
    return merges(model.value("merges", Json()));
  }

  Status add(const std::string& text, int32_t id) {
    ids_[text] = id;
    const auto [it, fresh] = texts_.emplace(id, text);
    if (!fresh && it->second != text) {
      return fail("tokenizer.json: '{}' and '{}' have the same id {}", it->second, text, id);
    }
    return {};
  }

  Status merges(const Json& list) {
    if (!list.is_array()) return fail("tokenizer.json: model: expected a list 'merges'");
    v_.merges.reserve(list.size());
    for (size_t i = 0; i < list.size(); ++i) {
      const Json& merge = list[i];
      std::pair<std::string, std::string> parts;
      if (merge.is_string()) {
        const auto& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
          return fail(
              "tokenizer.json: model: merge {} is '{}', expected two parts with a space between", i,
              text);
        }
        parts = {text.substr(0, space), text.substr(space + 1)};
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        parts = {merge[0].get<std::string>(), merge[1].get<std::string>()};
      } else {
        return fail("tokenizer.json: model: merge {} is neither a string nor a list of two strings",
                    i);
      }
      for (const std::string& text : {parts.first, parts.second, parts.first + parts.second}) {
        if (ids_.find(text) == ids_.end()) {
          return fail(
              "tokenizer.json: model: merge {} needs the token '{}', which vocab does not have", i,
              text);
        }
      }
      v_.merges.push_back(std::move(parts));
    }
    return {};
  }

  Status added_tokens(const Json& list) {
    constexpr const char* kWhere = "added_tokens";
    if (!list.is_array()) return fail("tokenizer.json: expected a list 'added_tokens'");
    for (const Json& node : list) {
      if (!node.is_object()) return fail("tokenizer.json: added_tokens: expected objects");
      AddedToken token;
      HEDDLE_TRY(token.text, json_string(node, "content", kWhere));
      const Json id = node.value("id", Json());
      if (!id.is_number_integer() || id < 0 || id > kLargestId) {
        return fail("tokenizer.json: added_tokens: the id of '{}' is no id", token.text);
      }
      token.id = id.get<int32_t>();
      HEDDLE_TRY(token.special, json_flag(node, "special", false, kWhere));
      HEDDLE_TRY(token.single_word, json_flag(node, "single_word", false, kWhere));
      HEDDLE_TRY(token.lstrip, json_flag(node, "lstrip", false, kWhere));
      HEDDLE_TRY(token.rstrip, json_flag(node, "rstrip", false, kWhere));
      HEDDLE_TRY(token.normalized, json_flag(node, "normalized", !token.special, kWhere));
      // The model's own id of the text goes before the one that is written here.
      if (const auto it = ids_.find(token.text); it != ids_.end()) {
        token.id = it->second;
      } else {
        HEDDLE_TRY_STATUS(add(token.text, token.id));
      }
      v_.added.push_back(std::move(token));
    }
    return {};
  }

  Status fill_tokens() {
    int64_t size = 0;
    for (const auto& [id, text] : texts_) size = std::max<int64_t>(size, int64_t{id} + 1);
    if (size == 0) return fail("tokenizer.json: no tokens");
    if (size > static_cast<int64_t>(texts_.size()) * 2 + kHolesAllowed) {
      return fail("tokenizer.json: {} tokens, but ids up to {}", texts_.size(), size - 1);
    }
    v_.tokens.resize(static_cast<size_t>(size));
    v_.types.assign(static_cast<size_t>(size), TokenType::kUnused);
    for (auto& [id, text] : texts_) {
      v_.types[static_cast<size_t>(id)] = TokenType::kNormal;
      v_.tokens[static_cast<size_t>(id)] = std::move(text);
    }
    for (const AddedToken& token : v_.added) {
      v_.types[static_cast<size_t>(token.id)] =
          token.special ? TokenType::kControl : TokenType::kUserDefined;
    }
    return {};
  }

  // "content" of a token written as a string or as an object; empty when there is none.
  static std::string token_text(const Json& config, const char* key) {
    const Json value = config.is_object() ? config.value(key, Json()) : Json();
    if (value.is_string()) return value.get<std::string>();
    if (value.is_object() && value.contains("content") && value["content"].is_string()) {
      return value["content"].get<std::string>();
    }
    return {};
  }

  static Result<Json> optional_object(const std::string& text, const char* name) {
    if (text.empty()) return Json::object();
    Json value = Json::parse(text, nullptr, false);
    if (!value.is_object()) return fail("{}: not a JSON object", name);
    return value;
  }

  Status config() {
    HEDDLE_TRY(const Json settings,
               optional_object(files_.tokenizer_config, "tokenizer_config.json"));
    HEDDLE_TRY(const Json special,
               optional_object(files_.special_tokens_map, "special_tokens_map.json"));
    HEDDLE_TRY(const Json generation,
               optional_object(files_.generation_config, "generation_config.json"));
    const auto named = [&](const char* key) -> std::optional<int32_t> {
      std::string text = token_text(settings, key);
      if (text.empty()) text = token_text(special, key);
      const auto it = ids_.find(text);
      return it == ids_.end() ? std::nullopt : std::optional<int32_t>(it->second);
    };
    v_.bos = named("bos_token");
    v_.padding = named("pad_token");
    if (const auto eos = named("eos_token")) v_.eos.push_back(*eos);
    const Json ends = generation.value("eos_token_id", Json());
    for (const Json& id : ends.is_array() ? ends : Json::array({ends})) {
      if (!id.is_number_integer() || id < 0 || id >= v_.tokens.size()) continue;
      const auto value = id.get<int32_t>();
      if (std::find(v_.eos.begin(), v_.eos.end(), value) == v_.eos.end()) v_.eos.push_back(value);
    }
    v_.end_of_generation = v_.eos;
    HEDDLE_TRY_STATUS(llama_bos(settings));
    return chat_templates(settings);
  }

  // The tokenizer classes of llama and gemma build their post-processor from these flags, whatever
  // the file has.
  Status llama_bos(const Json& settings) {
    const Json type = settings.value("tokenizer_class", Json());
    const std::string name = type.is_string() ? type.get<std::string>() : "";
    if (!name.starts_with("LlamaTokenizer") && !name.starts_with("GemmaTokenizer")) return {};
    const Json bos = settings.value("add_bos_token", Json());
    const Json eos = settings.value("add_eos_token", Json());
    if (bos.is_boolean()) {
      v_.prefix.clear();
      if (bos.get<bool>() && v_.bos) v_.prefix.push_back(*v_.bos);
    }
    if (eos.is_boolean()) {
      v_.suffix.clear();
      if (eos.get<bool>() && !v_.eos.empty()) v_.suffix.push_back(v_.eos[0]);
    }
    return {};
  }

  Status chat_templates(const Json& settings) {
    const Json value = settings.value("chat_template", Json());
    if (value.is_string()) {
      v_.chat_template = value.get<std::string>();
    } else if (value.is_array()) {
      for (const Json& entry : value) {
        if (!entry.is_object())
          return fail("tokenizer_config.json: chat_template: expected objects in the list");
        HEDDLE_TRY(const std::string name, json_string(entry, "name", "chat_template"));
        HEDDLE_TRY(std::string source, json_string(entry, "template", "chat_template"));
        if (name == "default") {
          v_.chat_template = std::move(source);
        } else {
          v_.named_templates[name] = std::move(source);
        }
      }
    }
    if (!files_.chat_template.empty()) v_.chat_template = files_.chat_template;
    return {};
  }

  const TokenizerFiles& files_;
  Vocabulary v_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_map<int32_t, std::string> texts_;
};

Result<std::string> read_file(const std::filesystem::path& path, bool required) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    if (required) return fail("{}: no such file", path.string());
    return std::string();
  }
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error || size > kLargestFile)
    return fail("{}: cannot be read, or is larger than 1 GiB", path.string());
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file && !file.eof()) return fail("{}: cannot be read", path.string());
  return text;
}

}  // namespace

Result<Vocabulary> vocabulary_from_json(const TokenizerFiles& files) {
  return JsonReader(files).run();
}

Result<Vocabulary> vocabulary_from_directory(const std::filesystem::path& directory) {
  TokenizerFiles files;
  HEDDLE_TRY(files.tokenizer, read_file(directory / "tokenizer.json", true));
  HEDDLE_TRY(files.tokenizer_config, read_file(directory / "tokenizer_config.json", false));
  HEDDLE_TRY(files.special_tokens_map, read_file(directory / "special_tokens_map.json", false));
  HEDDLE_TRY(files.generation_config, read_file(directory / "generation_config.json", false));
  HEDDLE_TRY(files.chat_template, read_file(directory / "chat_template.jinja", false));
  Result<Vocabulary> vocabulary = vocabulary_from_json(files);
  if (!vocabulary) return fail("{}: {}", directory.string(), vocabulary.error().message);
  return vocabulary;
}

}  // namespace heddle::text
