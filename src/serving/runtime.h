#pragma once
// A model ready to answer: weights, tokenizer, chat template, engine and its thread, loaded from
// one path.
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/model_executor.h"
#include "engine/service.h"
#include "model/files/checkpoint.h"
#include "model/model.h"
#include "serving/generation.h"

namespace heddle::serving {

struct RuntimeOptions {
  model::LoadOptions load;
  backend::KernelSet kernels = backend::KernelSet::cpu;
  int threads = 0;  // 0: every CPU that this process may use
  engine::EngineOptions engine;
  std::string name;  // what the API calls the model; empty: from the path
};

class Runtime {
 public:
  static Result<std::unique_ptr<Runtime>> load(const std::string& path,
                                               const RuntimeOptions& options);
  ~Runtime();

  const ModelHandle& handle() const { return *handle_; }
  const model::Model& model() const { return *model_; }
  engine::EngineService& service() { return *service_; }
  int threads() const { return pool_->threads(); }

 private:
  Runtime() = default;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<model::Model> model_;
  std::optional<text::Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> template_;
  std::unique_ptr<engine::ModelExecutor> executor_;
  std::unique_ptr<engine::EngineService> service_;
  std::unique_ptr<ModelHandle> handle_;
};

}  // namespace heddle::serving
