// The server over loopback, with an engine whose model is a clock: what clients do to each other
// and to the engine, without the noise of a real model.
#include "server/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include "server/http/socket.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/vocabulary.h"

namespace heddle::server {
namespace {

using std::chrono::milliseconds;

// Every step takes `delay`; every token is 'a'.
class ClockExecutor : public engine::Executor {
 public:
  ClockExecutor() {
    state::StatePart part;
    part.name = "k";
    part.strip = 4;
    layout_ = *state::StateLayout::make({{part}});
  }
  const state::StateLayout& layout() const override { return layout_; }
  int64_t vocab_size() const override { return kVocabulary; }
  int64_t context_length() const override { return 1 << 20; }
  Result<std::span<engine::RowOutput>> step(state::StepBatch& batch,
                                            std::span<const engine::RowRequest> requests) override {
    ++steps;
    std::this_thread::sleep_for(delay.load());
    if (fails) return fail("no memory for {} tokens", batch.tokens().size());
    for (int64_t i = 0; i < batch.segments(); ++i) batch.commit(i);
    outputs_.assign(requests.size(), {});
    for (engine::RowOutput& output : outputs_) output.sample->token = 3 + 'a';
    return std::span(outputs_);
  }

  static constexpr int64_t kVocabulary = 3 + 256;
  std::atomic<std::chrono::microseconds> delay{std::chrono::microseconds(0)};
  std::atomic<int64_t> steps{0};
  std::atomic<bool> fails{false};

 private:
  std::vector<engine::RowOutput> outputs_;
  state::StateLayout layout_;
};

text::Tokenizer byte_tokenizer() {
  text::GgufTokenizerMetadata m;
  m.model = "llama";
  m.add_space_prefix = false;
  const auto add = [&](const std::string& text, int32_t type) {
    m.tokens.push_back(text);
    m.scores.push_back(0);
    m.types.push_back(type);
  };
  add("<unk>", 2);
  add("<s>", 3);
  add("</s>", 3);
  for (int b = 0; b < 256; ++b) add(fmt::format("<0x{:02X}>", b), 6);
  auto tokenizer = text::Tokenizer::create(std::move(*text::vocabulary_from_gguf(std::move(m))));
  return std::move(*tokenizer);
}

class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0)
      ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const timeval limit{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  void send(const std::string& text) { ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL); }
  void request(const std::string& method, const std::string& path, const std::string& body = "",
               const std::string& key = "") {
    const std::string auth = key.empty() ? "" : "Authorization: Bearer " + key + "\r\n";
    send(fmt::format("{} {} HTTP/1.1\r\nHost: x\r\n{}Content-Length: {}\r\n\r\n{}", method, path,
                     auth, body.size(), body));
  }
  // Until `mark` has come, or the end.
  std::string read_until(const std::string& mark) {
    while (received_.find(mark) == std::string::npos) {
      char buffer[4096];
      const ssize_t count = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      if (count <= 0) break;
      received_.append(buffer, static_cast<size_t>(count));
    }
    return received_;
  }
  std::string read_all() { return read_until("no such text"); }
  void close() { fd_.reset(); }

 private:
  FileDescriptor fd_;
  std::string received_;
};

int status_of(const std::string& answer) {
  return answer.size() > 12 ? std::atoi(answer.c_str() + 9) : 0;
}

int64_t count_entries(const char* folder) {
  int64_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) count += entry.exists();
  return count;
}

// Threads of this process that have not begun to end: a joined one is listed for a moment still.
int64_t count_threads() {
  constexpr int64_t kEnding = 0x4;  // PF_EXITING of the kernel
  int64_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string line;
    if (!std::getline(file, line)) continue;  // gone meanwhile
    // Behind the name in parentheses: state, five numbers, flags.
    std::istringstream fields(line.substr(line.rfind(')') + 1));
    std::string skipped;
    int64_t flags = 0;
    for (int i = 0; i < 6; ++i) fields >> skipped;
    EXPECT_TRUE(fields >> flags) << line;
    count += (flags & kEnding) == 0;
  }
  return count;
}

class Rig {
 public:
  explicit Rig(ServerOptions options = {}, engine::EngineOptions engine_options = {})
      : service(executor, engine_options), model{"clock", tokenizer, nullptr, service, 1 << 20} {
    options.http.port = 0;
    options.log = [this](const RequestRecord& record) {
      std::lock_guard lock(mutex);
      records.push_back(record);
    };
    server = std::make_unique<HttpServer>(model, options);
    EXPECT_TRUE(server->bind().has_value());
    thread = std::thread([this] { server->serve(); });
  }
  ~Rig() { stop(milliseconds(0)); }
  void stop(milliseconds limit) {
    if (!thread.joinable()) return;
    server->stop(limit);
    thread.join();
    service.call([](engine::Engine& engine) { engine.check_invariants(); });
  }
  std::string ask(const std::string& method, const std::string& path, const std::string& body = "",
                  const std::string& key = "") {
    Client client(server->port());
    const std::string auth = key.empty() ? "" : "Authorization: Bearer " + key + "\r\n";
    client.send(fmt::format(
        "{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n{}", method,
        path, auth, body.size(), body));
    return client.read_all();
  }
  bool wait_idle(milliseconds limit) {
    const auto end = Clock::now() + limit;
    while (Clock::now() < end) {
      const auto metrics = service.metrics();
      if (metrics.running + metrics.waiting == 0) return true;
      std::this_thread::sleep_for(milliseconds(2));
    }
    return false;
  }
  std::string outcome() {
    for (int i = 0; i < 500; ++i) {
      {
        std::lock_guard lock(mutex);
        if (!records.empty()) return records.back().outcome;
      }
      std::this_thread::sleep_for(milliseconds(10));
    }
    return "";
  }

  ClockExecutor executor;
  text::Tokenizer tokenizer = byte_tokenizer();
  engine::EngineService service;
  serving::ModelHandle model;
  std::mutex mutex;
  std::vector<RequestRecord> records;
  std::unique_ptr<HttpServer> server;
  std::thread thread;
};

std::string stream_body(int64_t max_tokens) {
  return fmt::format(R"({{"prompt": "hello", "stream": true, "max_tokens": {}}})", max_tokens);
}

TEST(HttpServer, AClientThatLeavesFreesItsPlaceWithinAStep) {
  Rig rig;
  rig.executor.delay.store(milliseconds(400));  // the news is faster, however busy the machine
  Client client(rig.server->port());
  client.request("POST", "/v1/completions", stream_body(100000));
  client.read_until("data: ");
  const int64_t before = rig.executor.steps.load();
  client.close();
  ASSERT_TRUE(rig.wait_idle(milliseconds(5000)));
  // The step that was under way when the news came may have begun after `before`.
  EXPECT_LE(rig.executor.steps.load() - before, 1);
  EXPECT_EQ(rig.outcome(), "disconnected");
}

TEST(HttpServer, LeavingDuringTheWaitForAWholeAnswerCountsToo) {
  Rig rig;
  rig.executor.delay.store(milliseconds(400));
  Client client(rig.server->port());
  client.request("POST", "/v1/completions", R"({"prompt": "hello", "max_tokens": 100000})");
  while (rig.service.metrics().running == 0) std::this_thread::sleep_for(milliseconds(5));
  const int64_t before = rig.executor.steps.load();
  client.close();
  ASSERT_TRUE(rig.wait_idle(milliseconds(5000)));
  EXPECT_LE(rig.executor.steps.load() - before, 1);
}

TEST(HttpServer, AReaderThatStopsLosesItsAnswerAndHoldsNobodyUp) {
  ServerOptions options;
  options.http.timeouts.write = milliseconds(500);
  engine::EngineOptions engine_options;
  engine_options.max_unread_events = 1000;
  Rig rig(options, engine_options);
  rig.executor.delay.store(std::chrono::microseconds(200));
  Client stuck(rig.server->port(), 4096);
  stuck.request("POST", "/v1/completions", stream_body(1 << 19));
  stuck.read_until("data: ");
  // The other is served to its end while nobody reads the first.
  const std::string other = rig.ask("POST", "/v1/completions", stream_body(200));
  EXPECT_NE(other.find("[DONE]"), std::string::npos);
  ASSERT_TRUE(rig.wait_idle(milliseconds(10000)));
  EXPECT_EQ(
      rig.service.metrics().requests_finished[static_cast<size_t>(engine::FinishReason::length)],
      1);
  EXPECT_LT(rig.service.metrics().output_tokens, 100000);
}

TEST(HttpServer, AStepThatFailsIsAnswered503AndTheServerGoesOn) {
  Rig rig;
  rig.executor.fails = true;
  const std::string body = R"({"prompt": "hello", "max_tokens": 3})";
  const std::string failed = rig.ask("POST", "/v1/completions", body);
  EXPECT_EQ(status_of(failed), 503);
  EXPECT_NE(failed.find("no memory for "), std::string::npos);
  EXPECT_NE(failed.find("\"overloaded\""), std::string::npos);
  EXPECT_NE(failed.find("Retry-After: "), std::string::npos);
  EXPECT_EQ(rig.outcome(), "overloaded");
  const std::string stream = rig.ask("POST", "/v1/completions", stream_body(3));
  EXPECT_NE(stream.find("no memory for"), std::string::npos);
  EXPECT_NE(stream.find("[DONE]"), std::string::npos);
  rig.executor.fails = false;
  EXPECT_EQ(status_of(rig.ask("POST", "/v1/completions", body)), 200);
}

TEST(HttpServer, DrainingFinishesWhatRunsAndTakesNothingNew) {
  Rig rig;
  rig.executor.delay.store(milliseconds(20));
  Client running(rig.server->port());
  running.request("POST", "/v1/completions", stream_body(40));
  running.read_until("data: ");
  std::thread stopper([&] { rig.server->stop(milliseconds(20000)); });
  while (!rig.service.draining()) std::this_thread::sleep_for(milliseconds(1));
  const std::string health = rig.ask("GET", "/health");
  EXPECT_EQ(status_of(health), 503);
  EXPECT_NE(health.find("draining"), std::string::npos);
  const std::string refused = rig.ask("POST", "/v1/completions", stream_body(1));
  EXPECT_EQ(status_of(refused), 503);
  EXPECT_NE(refused.find("Retry-After: "), std::string::npos);
  const std::string answer = running.read_all();
  EXPECT_NE(answer.find("\"finish_reason\":\"length\""), std::string::npos);
  EXPECT_NE(answer.find("[DONE]"), std::string::npos);
  stopper.join();
  rig.thread.join();
}

TEST(HttpServer, DrainingEndsAtItsLimit) {
  Rig rig;
  rig.executor.delay.store(milliseconds(10));
  Client running(rig.server->port());
  running.request("POST", "/v1/completions", stream_body(100000));
  running.read_until("data: ");
  const auto start = Clock::now();
  rig.stop(milliseconds(200));
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(5));
  EXPECT_NE(running.read_all().find("shutting_down"), std::string::npos);
}

TEST(HttpServer, EveryEndpointButHealthWantsTheKey) {
  ServerOptions options;
  options.api_keys = {"first-key", "second-key"};
  Rig rig(options);
  for (const char* path :
       {"/v1/models", "/v1/models/clock", "/metrics", "/page/nothing", "/nothing"}) {
    EXPECT_EQ(status_of(rig.ask("GET", path)), 401) << path;
    EXPECT_EQ(status_of(rig.ask("GET", path, "", "first-ke")), 401) << path;
    EXPECT_EQ(status_of(rig.ask("GET", path, "", "first-key1")), 401) << path;
  }
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"})
    EXPECT_EQ(status_of(rig.ask("POST", path, "{}")), 401) << path;
  EXPECT_EQ(status_of(rig.ask("GET", "/health")), 200);
  // The page's files are the same for everybody.
  EXPECT_EQ(status_of(rig.ask("GET", "/")), 200);
  EXPECT_EQ(status_of(rig.ask("GET", "/page/app.js")), 200);
  EXPECT_EQ(status_of(rig.ask("POST", "/", "{}")), 401);
  EXPECT_EQ(status_of(rig.ask("GET", "/v1/models", "", "first-key")), 200);
  EXPECT_EQ(status_of(rig.ask("GET", "/metrics", "", "second-key")), 200);
}

TEST(HttpServer, OneKeysCacheIsNothingToAnother) {
  ServerOptions options;
  options.api_keys = {"alice", "bob"};
  Rig rig(options);
  const std::string body =
      fmt::format(R"({{"prompt": "{}", "max_tokens": 1}})", std::string(300, 'x'));
  const auto cached = [&](const char* key) {
    const std::string answer = rig.ask("POST", "/v1/completions", body, key);
    const size_t at = answer.find("\"cached_tokens\":");
    return at == std::string::npos ? -1 : std::atoi(answer.c_str() + at + 16);
  };
  EXPECT_EQ(cached("alice"), 0);
  EXPECT_GT(cached("alice"), 250);
  EXPECT_EQ(cached("bob"), 0);  // the same text: all of it is read again
  EXPECT_GT(cached("bob"), 250);
  EXPECT_EQ(rig.service.metrics().computed_prompt_tokens,
            rig.service.metrics().prompt_tokens - rig.service.metrics().cached_tokens);
}

TEST(HttpServer, ConnectionsBeyondTheLimitAreToldSo) {
  ServerOptions options;
  options.http.max_connections = 2;
  Rig rig(options);
  rig.executor.delay.store(milliseconds(10));
  Client first(rig.server->port());
  Client second(rig.server->port());
  for (Client* client : {&first, &second}) {
    client->request("POST", "/v1/completions", stream_body(100000));
    client->read_until("data: ");
  }
  const std::string refused = rig.ask("POST", "/v1/completions", stream_body(1));
  EXPECT_EQ(status_of(refused), 503);
  EXPECT_NE(refused.find("too_many_connections"), std::string::npos);
  EXPECT_EQ(status_of(rig.ask("GET", "/health")), 200);
}

TEST(HttpServer, AFullQueueRefuses) {
  engine::EngineOptions engine_options;
  engine_options.scheduler.max_sequences = 1;
  engine_options.max_waiting = 1;
  Rig rig({}, engine_options);
  rig.executor.delay.store(milliseconds(20));
  Client running(rig.server->port());
  running.request("POST", "/v1/completions", stream_body(100000));
  running.read_until("data: ");
  Client waiting(rig.server->port());
  waiting.request("POST", "/v1/completions", stream_body(10));
  while (rig.service.metrics().waiting == 0) std::this_thread::sleep_for(milliseconds(5));
  const std::string refused = rig.ask("POST", "/v1/completions", stream_body(1));
  EXPECT_EQ(status_of(refused), 429);
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
  EXPECT_NE(refused.find("queue_full"), std::string::npos);
}

TEST(HttpServer, SlowRequestsTimeOut) {
  ServerOptions options;
  options.http.timeouts.head = milliseconds(200);
  options.http.timeouts.body = milliseconds(200);
  options.request_timeout = milliseconds(200);
  Rig rig(options);
  Client head(rig.server->port());
  head.send("GET / HTTP/1.1\r\nHo");
  EXPECT_EQ(status_of(head.read_all()), 408);
  Client body(rig.server->port());
  body.send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{");
  EXPECT_EQ(status_of(body.read_all()), 408);
  Client silent(rig.server->port());
  EXPECT_EQ(silent.read_all(), "");  // closed without a word
  rig.executor.delay.store(milliseconds(20));
  EXPECT_EQ(
      status_of(rig.ask("POST", "/v1/completions", R"({"prompt": "x", "max_tokens": 90000})")),
      408);
  ASSERT_TRUE(rig.wait_idle(milliseconds(5000)));
}

TEST(HttpServer, OneConnectionServesManyAndPipelinedRequests) {
  Rig rig;
  Client client(rig.server->port());
  std::string three;
  for (int i = 0; i < 3; ++i) three += "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
  client.send(three + "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answers = client.read_all();
  size_t count = 0;
  for (size_t at = 0; (at = answers.find("{\"status\":\"ok\"}", at)) != std::string::npos; ++at)
    ++count;
  EXPECT_EQ(count, 3u);
  EXPECT_NE(answers.find("404"), std::string::npos);
}

TEST(HttpServer, SeveralPromptsAndChoicesStreamSideBySide) {
  Rig rig;
  const std::string answer = rig.ask(
      "POST", "/v1/completions",
      R"({"prompt": ["ab", "cd"], "n": 2, "echo": true, "stream": true, "max_tokens": 3, "temperature": 0,
          "stream_options": {"include_usage": true}})");
  for (int index = 0; index < 4; ++index)
    EXPECT_NE(
        answer.find(fmt::format("\"index\":{},\"text\":\"{}", index, index < 2 ? "ab" : "cd")),
        std::string::npos)
        << answer;
  EXPECT_NE(answer.find("\"completion_tokens\":12"), std::string::npos) << answer;
}

TEST(HttpServer, TokenizeAndBack) {
  Rig rig;
  const std::string tokens =
      rig.ask("POST", "/tokenize", R"({"prompt": "ab", "add_special_tokens": false,
      "return_token_strs": true})");
  EXPECT_NE(tokens.find("\"max_model_len\":1048576"), std::string::npos) << tokens;
  EXPECT_NE(tokens.find("\"token_strs\":["), std::string::npos) << tokens;
  const std::string text = rig.ask("POST", "/detokenize", R"({"tokens": [100, 101]})");
  EXPECT_NE(text.find(R"({"prompt":"ab"})"), std::string::npos) << text;
  EXPECT_EQ(status_of(rig.ask("POST", "/detokenize", R"({"tokens": [259]})")), 400);
}

TEST(HttpServer, NothingIsLeftBehind) {
  { Rig warm; }
  const int64_t descriptors = count_entries("/proc/self/fd");
  const int64_t threads = count_threads();
  {
    Rig rig;
    rig.executor.delay.store(milliseconds(1));
    for (int i = 0; i < 20; ++i) {
      Client client(rig.server->port());
      client.request("POST", "/v1/completions", stream_body(1000));
      if (i % 2 == 0) client.read_until("data: ");
    }
    rig.ask("GET", "/health");
    ASSERT_TRUE(rig.wait_idle(milliseconds(10000)));
    rig.stop(milliseconds(1000));
    EXPECT_EQ(rig.service.metrics().state_reserved_bytes, 0);
  }
  EXPECT_EQ(count_entries("/proc/self/fd"), descriptors);
  EXPECT_EQ(count_threads(), threads);
}

}  // namespace
}  // namespace heddle::server
