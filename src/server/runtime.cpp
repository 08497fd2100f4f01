#include "server/runtime.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <filesystem>

#include "model/gguf.h"
#include "text/tokenizer_json.h"

namespace heddle::server {
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

std::string token_text(const text::Tokenizer& tokenizer, std::optional<int32_t> id) {
  if (!id) return {};
  return tokenizer.vocabulary().tokens[static_cast<size_t>(*id)];
}

Result<text::Tokenizer> tokenizer_of(const model::GgufFile& file) {
  auto vocabulary = text::vocabulary_from_gguf(tokenizer_metadata(file));
  if (!vocabulary) return fail("{}: {}", file.path(), vocabulary.error().message);
  return text::Tokenizer::create(std::move(*vocabulary));
}

// Building the tables of a large vocabulary frees many small pieces that the heap would keep.
void return_free_memory() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

// "dir/Name.gguf" and "dir/Name/" are called "Name".
std::string name_of(const std::string& path) {
  std::filesystem::path p(path);
  if (!p.has_filename()) p = p.parent_path();
  return p.extension() == ".gguf" ? p.stem().string() : p.filename().string();
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

Result<std::unique_ptr<Runtime>> Runtime::load(const std::string& path,
                                               const RuntimeOptions& options) {
  std::unique_ptr<Runtime> runtime(new Runtime);
  const int threads = options.threads > 0 ? options.threads : ThreadPool::available_cpus();
  runtime->pool_ = std::make_unique<ThreadPool>(threads);
  HEDDLE_TRY(const auto checkpoint, model::Checkpoint::open(path));
  HEDDLE_TRY(runtime->tokenizer_, load_tokenizer(checkpoint));
  const text::Tokenizer& tokenizer = *runtime->tokenizer_;
  if (tokenizer.vocab_size() > checkpoint.spec().vocab_size)
    return fail("{}: the tokenizer has {} tokens, the model {}", path, tokenizer.vocab_size(),
                checkpoint.spec().vocab_size);
  // What that took is given back before the weights come: the peak is what stays.
  return_free_memory();
  checkpoint.drop_pages();
  HEDDLE_TRY(runtime->model_, model::Model::load(checkpoint, options.load, *runtime->pool_));
  const text::Vocabulary& vocabulary = tokenizer.vocabulary();
  if (!vocabulary.chat_template.empty()) {
    auto parsed = text::ChatTemplate::parse(vocabulary.chat_template,
                                            {.bos = token_text(tokenizer, tokenizer.bos()),
                                             .eos = token_text(tokenizer, tokenizer.eos())});
    if (!parsed) return fail("{}: chat template: {}", path, parsed.error().message);
    runtime->template_ = std::move(*parsed);
  }
  runtime->executor_ =
      std::make_unique<engine::ModelExecutor>(*runtime->model_, *runtime->pool_, options.kernels);
  runtime->service_ = std::make_unique<engine::EngineService>(*runtime->executor_, options.engine);
  runtime->handle_ = std::unique_ptr<ModelHandle>(new ModelHandle{
      options.name.empty() ? name_of(path) : options.name, tokenizer,
      runtime->template_ ? &*runtime->template_ : nullptr, *runtime->service_,
      runtime->model_->spec().context_length, runtime->model_->snapshot_identity()});
  return runtime;
}

Runtime::~Runtime() {
  service_.reset();  // before what its thread uses
}

}  // namespace heddle::server
