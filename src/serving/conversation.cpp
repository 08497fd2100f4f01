#include "serving/conversation.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/mmap_file.h"
#include "base/rng.h"
#include "base/write_file.h"
#include "serving/chat_prompt.h"

namespace heddle::serving {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr int kCompression = 1;  // of zstd: a state shrinks little, and saving must not be felt

text::Value list_of(const ConversationSettings& settings, const std::vector<Message>& messages) {
  std::vector<text::Value> list;
  const auto add = [&](const std::string& role, const std::string& content) {
    list.push_back(text::Value::map({{"role", role}, {"content", content}}));
  };
  if (!settings.system.empty()) add("system", settings.system);
  for (const Message& message : messages) add(message.role, message.content);
  return text::Value::list(std::move(list));
}

// The tokens up to where any next message may begin. A template may write an answer in another way
// once a message follows (without its thinking, say), so that the text so far alone does not tell.
Result<std::vector<int32_t>> common_tokens(const ModelHandle& model,
                                           const ConversationSettings& settings,
                                           std::vector<Message> messages) {
  messages.push_back({"user", "a"});
  HEDDLE_TRY(ChatPrompt prompt, render_chat(model, list_of(settings, messages), {}, {}));
  prompt.ends.pop_back();
  const auto end = std::max_element(prompt.ends.begin(), prompt.ends.end());
  prompt.tokens.resize(
      static_cast<size_t>(end == prompt.ends.end() ? 0 : std::max<int64_t>(*end, 0)));
  return std::move(prompt.tokens);
}

// Nothing but a conversation is overwritten.
Status check_target(const std::string& path) {
  std::error_code error;
  if (path.empty()) return fail("a file name is expected");
  if (!std::filesystem::exists(path, error)) return {};
  if (!std::filesystem::is_regular_file(path, error)) return fail("{}: not a regular file", path);
  std::ifstream file(path, std::ios::binary);
  char magic[8] = {};
  file.read(magic, sizeof magic);
  if (file.gcount() != sizeof magic || std::string_view(magic, sizeof magic) != kConversationMagic)
    return fail("{}: exists and is no conversation; it stays as it is", path);
  return {};
}

}  // namespace

Conversation::Conversation(const ModelHandle& model, ConversationSettings settings)
    : model_(model), settings_(std::move(settings)) {}

void Conversation::reset() {
  messages_.clear();
  retries_ = 0;
}

void Conversation::set_system(std::string text) {
  settings_.system = std::move(text);
  reset();
}

bool Conversation::undo() {
  if (messages_.empty()) return false;
  messages_.resize(messages_.size() - 2);
  retries_ = 0;
  return true;
}

Result<Reply> Conversation::say(std::string text, const Sink& sink) {
  const int64_t retries = std::exchange(retries_, 0);
  messages_.push_back({"user", std::move(text)});
  auto reply = answer(sink);
  if (reply && !(reply->reason == engine::FinishReason::cancelled && reply->text.empty())) {
    messages_.push_back({"assistant", reply->text});
  } else {
    messages_.pop_back();
    retries_ = retries;
  }
  return reply;
}

Result<Reply> Conversation::retry(const Sink& sink) {
  if (messages_.empty()) return fail("nothing has been said yet");
  Message old = std::move(messages_.back());
  messages_.pop_back();
  ++retries_;
  auto reply = answer(sink);
  if (reply && !(reply->reason == engine::FinishReason::cancelled && reply->text.empty())) {
    messages_.push_back({"assistant", reply->text});
  } else {
    messages_.push_back(std::move(old));
    --retries_;
  }
  return reply;
}

Result<Reply> Conversation::answer(const Sink& sink) {
  HEDDLE_TRY(auto prompt, render_chat(model_, list_of(settings_, messages_), {}, {}));
  GenerationRequest request;
  request.engine.prompt = std::move(prompt.tokens);
  request.engine.checkpoints = std::move(prompt.checkpoints);
  request.engine.max_tokens = settings_.max_tokens;
  request.engine.sampling = settings_.sampling;
  // A seed of its own for every turn and every retry, the same in the same conversation.
  request.engine.sampling.seed = random_u64(
      settings_.sampling.seed, messages_.size() + (static_cast<uint64_t>(retries_) << 32));
  HEDDLE_TRY(const auto generations, Generation::start(model_, std::move(request)));
  Generation* const generation = generations.front().get();
  Reply reply;
  while (true) {
    const auto delta = generation->next(kPoll);
    if (delta) {
      reply.text += delta->text;
      reply.tokens.insert(reply.tokens.end(), delta->tokens.begin(), delta->tokens.end());
    }
    if (!sink(delta ? std::string_view(delta->text) : std::string_view())) generation->cancel();
    if (!delta || !delta->finished) continue;
    if (delta->reason == engine::FinishReason::error) return fail("{}", delta->error);
    reply.reason = delta->reason;
    reply.usage = delta->usage;
    return reply;
  }
}

Result<std::vector<int32_t>> Conversation::tokens() const {
  return common_tokens(model_, settings_, messages_);
}

Result<int64_t> Conversation::save(const std::string& path) const {
  HEDDLE_TRY_STATUS(check_target(path));
  HEDDLE_TRY(const std::vector<int32_t> known, tokens());
  ConversationFile file;
  file.model = model_.identity.model;
  file.weights = model_.identity.weights;
  file.settings = settings_;
  file.messages = messages_;
  file.retries = retries_;
  int64_t covered = 0;
  model_.service.call([&](engine::Engine& engine) {
    const auto saved = engine.longest_prefix("", known);
    covered = saved.snapshot.position;
    if (covered > 0)
      file.snapshot = state::encode_snapshot(engine.layout(), model_.identity, saved.tokens,
                                             saved.snapshot, kCompression);
  });
  HEDDLE_TRY(const std::vector<std::byte> bytes, encode_conversation(file));
  HEDDLE_TRY_STATUS(write_file(path, bytes, "a conversation"));
  return covered;
}

Result<int64_t> Conversation::load(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return fail("{}: no such file", path);
  if (!std::filesystem::is_regular_file(path, error)) return fail("{}: not a regular file", path);
  int64_t state_bytes = 0;
  model_.service.call([&](engine::Engine& engine) { state_bytes = engine.options().state_bytes; });
  HEDDLE_TRY(const std::string content,
             read_text_file(path, static_cast<size_t>(state_bytes + 2 * kMaxConversationText)));
  HEDDLE_TRY(ConversationFile file, decode_conversation(std::as_bytes(std::span(content)), path));
  const state::SnapshotIdentity& own = model_.identity;
  if (file.model != own.model || file.weights != own.weights)
    return fail(
        "{}: a conversation with another model ({}, weights {:016x}{:016x}); expected {}, "
        "{:016x}{:016x}",
        path, file.model, file.weights.high, file.weights.low, own.model, own.weights.high,
        own.weights.low);
  file.settings.sampling.logprobs = settings_.sampling.logprobs;  // what is told, not what is said
  HEDDLE_TRY(const std::vector<int32_t> known, common_tokens(model_, file.settings, file.messages));
  Result<int64_t> covered = 0;
  if (file.snapshot.empty()) {
    settings_ = std::move(file.settings);
  } else {
    model_.service.call([&](engine::Engine& engine) {
      auto saved = state::decode_snapshot(file.snapshot, path, engine.layout(), own, engine.pool(),
                                          state_bytes);
      if (!saved) {
        covered = tl::unexpected(saved.error());
        return;
      }
      const std::vector<int32_t>& tokens = saved->tokens;
      if (tokens.size() > known.size() ||
          !std::equal(tokens.begin(), tokens.end(), known.begin())) {
        covered = fail("{}: its state is not that of its messages", path);
        return;
      }
      covered = saved->snapshot.position;
      engine.restore("", {std::move(saved->snapshot), std::move(saved->tokens)});
    });
    if (!covered) return covered;
    settings_ = std::move(file.settings);
  }
  messages_ = std::move(file.messages);
  retries_ = file.retries;
  return covered;
}

}  // namespace heddle::serving
