#include "serving/runtime.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <filesystem>

#include "serving/tokenizer_files.h"

namespace heddle::serving {
namespace {

std::string token_text(const text::Tokenizer& tokenizer, std::optional<int32_t> id) {
  if (!id) return {};
  return tokenizer.vocabulary().tokens[static_cast<size_t>(*id)];
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

}  // namespace heddle::serving
