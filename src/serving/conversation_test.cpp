#include "serving/conversation.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "engine/model_executor.h"
#include "text/unicode.h"

namespace heddle::serving {
namespace {

using ::testing::HasSubstr;

constexpr const char* kTemplate =
    "{% for m in messages %}<|s|>{{ m.role }}\n{{ m.content }}<|e|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}";

// 256 tokens, as the tiny models have: all bytes but three that no text has: the marks and a merge.
text::Tokenizer byte_tokenizer() {
  text::GgufTokenizerMetadata metadata;
  metadata.model = "gpt2";
  metadata.pre = "gpt-2";
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    metadata.tokens.push_back(text::encode_byte_alphabet(std::string_view(&c, 1)));
  }
  metadata.types.assign(256, 1);
  metadata.tokens[0xfd] = "aa";
  metadata.merges = {"a a"};
  metadata.tokens[0xfe] = "<|s|>";
  metadata.tokens[0xff] = "<|e|>";
  metadata.types[0xfe] = metadata.types[0xff] = 3;
  metadata.eos = 0xff;
  metadata.bos = 0xff;
  auto vocabulary = text::vocabulary_from_gguf(std::move(metadata));
  EXPECT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  return std::move(*text::Tokenizer::create(std::move(*vocabulary)));
}

// One process: a tiny model, its engine, nothing else.
class Process {
 public:
  explicit Process(const std::string& name, bool reference = false) : tokenizer(byte_tokenizer()) {
    auto loaded = model::Model::load(std::string(HEDDLE_GOLDEN_DIR) + "/" + name, {}, pool);
    EXPECT_TRUE(loaded.has_value()) << loaded.error().message;
    model = std::move(*loaded);
    chat_template = *text::ChatTemplate::parse(kTemplate);
    executor = std::make_unique<engine::ModelExecutor>(
        *model, pool, reference ? backend::KernelSet::reference : backend::KernelSet::cpu);
    service = std::make_unique<engine::EngineService>(*executor, engine::EngineOptions());
    handle.reset(new ModelHandle{name, tokenizer, &*chat_template, *service,
                                 model->spec().context_length, model->snapshot_identity()});
  }
  // The logits of the token after `prompt`, bit for bit.
  std::vector<float> next(const std::vector<int32_t>& prompt) {
    engine::Request request;
    request.prompt = prompt;
    request.max_tokens = 1;
    request.keep_logits = true;
    const auto streams = service->submit(request);
    EXPECT_TRUE(streams.has_value());
    engine::RequestStream& stream = *streams->front();
    std::vector<float> logits = stream.next().logits;
    stream.next();
    return logits;
  }

  ThreadPool pool{1};
  std::unique_ptr<model::Model> model;
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
  std::unique_ptr<engine::ModelExecutor> executor;
  std::unique_ptr<engine::EngineService> service;
  std::unique_ptr<ModelHandle> handle;
};

std::string scratch_file(const std::string& name) {
  const std::string path = testing::TempDir() + name + "." + std::to_string(getpid());
  std::filesystem::remove(path);
  return path;
}

bool everything(std::string_view) { return true; }

ConversationSettings settings(double temperature = 0) {
  ConversationSettings settings;
  settings.system = "You answer.";
  settings.max_tokens = 40;
  settings.sampling.temperature = temperature;
  settings.sampling.seed = 9;
  settings.sampling.logprobs = 3;
  return settings;
}

Reply say(Conversation& conversation, const char* text) {
  auto reply = conversation.say(text, everything);
  EXPECT_TRUE(reply.has_value()) << (reply ? "" : reply.error().message);
  return reply.value_or(Reply{});
}

void expect_same(const Reply& a, const Reply& b) {
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.usage.prompt_tokens, b.usage.prompt_tokens);
  EXPECT_EQ(a.usage.cached_tokens, b.usage.cached_tokens);
  EXPECT_EQ(a.usage.output_tokens, b.usage.output_tokens);
  ASSERT_EQ(a.tokens.size(), b.tokens.size());
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    EXPECT_EQ(a.tokens[i].token, b.tokens[i].token);
    EXPECT_EQ(std::memcmp(&a.tokens[i].logprob, &b.tokens[i].logprob, sizeof(float)), 0) << i;
  }
}

class SavedConversation : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Tiny, SavedConversation,
                         testing::Values("llama", "gemma3", "lfm2", "qwen3_5"),
                         [](const auto& param) { return std::string(param.param); });

// Saved, loaded in another process and gone on with: the same text, log probabilities, usage and
// logits as without the interruption, at temperature 0 and with a seed.
TEST_P(SavedConversation, GoesOnAsIfNeverInterrupted) {
  for (const double temperature : {0.0, 0.9}) {
    const std::string path = scratch_file(std::string("chat_") + GetParam());
    Process whole(GetParam());
    Conversation straight(*whole.handle, settings(temperature));
    say(straight, "Good morning, what is a loom?");
    say(straight, "And a heddle?");
    const auto covered = straight.save(path);
    ASSERT_TRUE(covered.has_value()) << covered.error().message;
    EXPECT_GT(*covered, 60);
    const Reply expected = say(straight, "Name three of its parts.");

    Process second(GetParam());
    ConversationSettings other;  // the file's settings count
    other.sampling.logprobs = 3;
    Conversation resumed(*second.handle, other);
    const auto loaded = resumed.load(path);
    ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
    EXPECT_EQ(*loaded, *covered);
    EXPECT_EQ(resumed.settings().system, "You answer.");
    const Reply reply = say(resumed, "Name three of its parts.");
    EXPECT_EQ(reply.usage.cached_tokens, *covered) << "a covered token was read again, or others";
    expect_same(reply, expected);
    const std::vector<int32_t> known = *straight.tokens();
    EXPECT_EQ(*resumed.tokens(), known);
    const std::vector<float> logits = second.next(known);
    const std::vector<float> expected_logits = whole.next(known);
    ASSERT_EQ(logits.size(), expected_logits.size());
    EXPECT_EQ(std::memcmp(logits.data(), expected_logits.data(), logits.size() * sizeof(float)), 0);
    std::filesystem::remove(path);
  }
}

TEST(Conversation, IsRenderedAndEncodedOnceForEveryAnswerAndSave) {
  Process process("qwen3_5");
  Conversation conversation(*process.handle, settings());
  const std::string path = scratch_file("once");
  const auto work = [&] {
    return std::pair(process.chat_template->renderings(), process.tokenizer.encodings());
  };
  const auto before = work();
  say(conversation, "One?");
  say(conversation, "Two?");
  EXPECT_EQ(work(), std::pair(before.first + 2, before.second + 2));
  const auto saved = conversation.save(path);
  ASSERT_TRUE(saved.has_value()) << saved.error().message;
  EXPECT_GT(*saved, 0);
  EXPECT_EQ(work(), std::pair(before.first + 3, before.second + 3));
  std::filesystem::remove(path);
}

TEST(Conversation, ForgetsRetriesAndBeginsAnew) {
  Process process("llama");
  Conversation conversation(*process.handle, settings(1.0));
  EXPECT_FALSE(conversation.undo());
  EXPECT_FALSE(conversation.retry(everything).has_value());
  const Reply first = say(conversation, "one");
  const Reply second = say(conversation, "two");
  ASSERT_EQ(conversation.messages().size(), 4u);
  auto again = conversation.retry(everything);
  ASSERT_TRUE(again.has_value());
  EXPECT_NE(again->text, second.text) << "a retry draws with another seed";
  EXPECT_EQ(conversation.messages().back().content, again->text);
  EXPECT_TRUE(conversation.undo());
  const Reply same = say(conversation, "two");
  EXPECT_EQ(same.text, second.text) << "the same place in the same conversation";
  conversation.set_system("Another.");
  EXPECT_TRUE(conversation.messages().empty());
  say(conversation, "one");
  conversation.reset();
  EXPECT_TRUE(conversation.messages().empty());
  EXPECT_EQ(conversation.settings().system, "Another.");
}

TEST(Conversation, KeepsWhatAStoppedAnswerSaid) {
  Process process("llama");
  ConversationSettings long_answers = settings();
  long_answers.max_tokens = 400;
  Conversation conversation(*process.handle, long_answers);
  int pieces = 0;
  auto reply = conversation.say("go on", [&](std::string_view piece) {
    pieces += piece.empty() ? 0 : 1;
    return pieces < 5;
  });
  ASSERT_TRUE(reply.has_value());
  ASSERT_EQ(reply->reason, engine::FinishReason::cancelled);
  EXPECT_FALSE(reply->text.empty());
  ASSERT_EQ(conversation.messages().size(), 2u);
  EXPECT_EQ(conversation.messages().back().content, reply->text);
  conversation.reset();  // the tiny model's context is short
  auto nothing = conversation.say("stop at once", [](std::string_view) { return false; });
  ASSERT_TRUE(nothing.has_value());
  EXPECT_EQ(conversation.messages().size(), nothing->text.empty() ? 0u : 2u);
}

std::vector<std::byte> read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

void write_all(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
}

std::string refusal(Conversation& conversation, const std::string& path) {
  const auto before = conversation.messages();
  const auto loaded = conversation.load(path);
  EXPECT_EQ(conversation.messages(), before) << "a refused file changed the conversation";
  return loaded ? "accepted" : loaded.error().message;
}

TEST(ConversationFile, DamagedForeignAndHostileOnesAreRefusedByName) {
  const std::string path = scratch_file("chat_refused");
  Process process("llama");
  Conversation conversation(*process.handle, settings());
  say(conversation, "hello");
  ASSERT_TRUE(conversation.save(path).has_value());
  const std::vector<std::byte> good = read_all(path);
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);

  for (size_t at = 0; at < good.size(); at += 1 + good.size() / 200) {
    std::vector<std::byte> flipped = good;
    flipped[at] ^= std::byte{1};
    write_all(path, flipped);
    EXPECT_THAT(refusal(conversation, path), HasSubstr(path)) << "byte " << at;
  }
  for (const size_t size : {size_t{0}, size_t{7}, size_t{40}, good.size() - 1}) {
    write_all(path, std::span(good).first(size));
    EXPECT_THAT(refusal(conversation, path), HasSubstr(path)) << "cut to " << size;
  }
  EXPECT_THAT(refusal(conversation, path + ".missing"), HasSubstr("no such file"));
  EXPECT_THAT(refusal(conversation, testing::TempDir()), HasSubstr("not a regular file"));

  write_all(path, good);
  Process other("lfm2");
  Conversation foreign(*other.handle, settings());
  EXPECT_THAT(refusal(foreign, path), HasSubstr("another model"));

  // Well-formed files that lie.
  ConversationFile file = *decode_conversation(good, path);
  const auto rewritten = [&](auto change) {
    ConversationFile changed = file;
    change(changed);
    write_all(path, *encode_conversation(changed));
    return refusal(conversation, path);
  };
  EXPECT_THAT(rewritten([](auto& f) { f.messages[0].content = "goodbye"; }),
              HasSubstr("not that of its messages"));
  EXPECT_THAT(rewritten([](auto& f) { f.messages.pop_back(); }), HasSubstr("no answer"));
  EXPECT_THAT(rewritten([](auto& f) { f.messages[0].role = "system"; }), HasSubstr("role"));
  EXPECT_THAT(rewritten([](auto& f) { f.settings.sampling.top_p = 7; }), HasSubstr("top_p"));
  EXPECT_THAT(rewritten([](auto& f) { f.settings.max_tokens = 0; }), HasSubstr("max_tokens"));
  EXPECT_THAT(rewritten([](auto& f) { f.snapshot.resize(f.snapshot.size() / 2); }),
              HasSubstr("snapshot"));
  EXPECT_THAT(rewritten([](auto& f) { f.weights.low ^= 1; }), HasSubstr("another model"));
  EXPECT_EQ(rewritten([](auto&) {}), "accepted");
  EXPECT_EQ(rewritten([](auto& f) { f.snapshot.clear(); }), "accepted") << "no state: read again";
  std::filesystem::remove(path);
}

TEST(ConversationFile, OverwritesConversationsOnly) {
  const std::string path = scratch_file("chat_target");
  Process process("llama");
  Conversation conversation(*process.handle, settings());
  say(conversation, "hello");
  write_all(path, std::as_bytes(std::span("my thesis")));
  const auto refused = conversation.save(path);
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message, HasSubstr("no conversation"));
  EXPECT_FALSE(conversation.save(testing::TempDir()).has_value());
  EXPECT_FALSE(conversation.save(testing::TempDir() + "no/such/folder/x").has_value());
  std::filesystem::remove(path);
  EXPECT_TRUE(conversation.save(path).has_value());
  EXPECT_TRUE(conversation.save(path).has_value());
  std::filesystem::remove(path);
}

TEST(ConversationFile, TextSurvivesExactly) {
  ConversationFile file;
  file.model = "m";
  file.weights = {1, ~uint64_t{0}};
  file.settings.system = "tab\t, quote \", null \0, ö, 🦙";
  file.settings.sampling.temperature = 0.1 + 0.2;
  file.settings.sampling.seed = ~uint64_t{0};
  file.messages = {{"user", "line\nline\r\n"}, {"assistant", std::string("a\0b", 3)}};
  file.retries = 3;
  const auto back = decode_conversation(*encode_conversation(file), "x");
  ASSERT_TRUE(back.has_value()) << back.error().message;
  EXPECT_EQ(back->messages, file.messages);
  EXPECT_EQ(back->settings.system, file.settings.system);
  EXPECT_EQ(back->settings.sampling.temperature, file.settings.sampling.temperature);
  EXPECT_EQ(back->settings.sampling.seed, file.settings.sampling.seed);
  EXPECT_EQ(back->weights, file.weights);
  EXPECT_EQ(back->retries, 3);
}

}  // namespace
}  // namespace heddle::serving
