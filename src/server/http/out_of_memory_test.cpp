// Memory that runs out while a request is handled ends that request: with a whole 503 where nothing
// was sent, else the answer is broken off. The next connection is served.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <new>

#include "server/http/listener.h"

namespace heddle::server {
namespace {

constexpr std::string_view kApology =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno";

struct Handler : HttpHandler {
  std::optional<HttpResponse> check(const HttpRequest& head) override {
    if (head.path == "/check") throw std::bad_alloc();
    return std::nullopt;
  }
  void handle(HttpExchange& exchange) override {
    const std::string path = exchange.request().path;
    if (path == "/before") throw std::bad_alloc();
    if (path == "/within") {
      exchange.begin("text/plain");
      exchange.write("piece");
      throw std::bad_alloc();
    }
    HttpResponse response;
    response.body = "fine";
    exchange.respond(response);
  }
  HttpResponse refusal(const HttpFailure&) override { return {}; }
  std::string_view out_of_memory() const override { return kApology; }
  void done(const HttpExchange& exchange) override {
    status = exchange.status();
    if (exchange.request().path == "/done") throw std::bad_alloc();
  }
  std::atomic<int> status{0};
};

struct Rig {
  Rig() : listener({.host = "127.0.0.1", .port = 0}, handler) {
    EXPECT_TRUE(listener.bind().has_value());
    thread = std::thread([this] { listener.serve(); });
  }
  ~Rig() {
    listener.stop(std::chrono::milliseconds(0));
    thread.join();
  }
  // The answers to requests on one connection, up to its end.
  std::string ask(const std::string& path, const std::string& then = "") const {
    FileDescriptor fd(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(listener.port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::string close = "Connection: close\r\n\r\n";
    std::string text = "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + (then.empty() ? close : "\r\n");
    if (!then.empty()) text += "GET " + then + " HTTP/1.1\r\nHost: x\r\n" + close;
    ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
    std::string answer;
    char buffer[4096];
    for (ssize_t count = 0; (count = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;)
      answer.append(buffer, static_cast<size_t>(count));
    return answer;
  }
  Handler handler;
  HttpListener listener;
  std::thread thread;
};

TEST(HttpOutOfMemory, BeforeTheAnswerIsAWholeOneAndTheConnectionEnds) {
  const Rig rig;
  for (const char* path : {"/before", "/check"})
    EXPECT_EQ(rig.ask(path, "/fine"), kApology) << path;
  EXPECT_NE(rig.ask("/fine").find("200 OK"), std::string::npos) << "and the server goes on";
}

TEST(HttpOutOfMemory, ItsStatusIsCounted) {
  const Rig rig;
  rig.ask("/before");
  EXPECT_EQ(rig.handler.status, 503);
}

TEST(HttpOutOfMemory, WithinAStreamBreaksItOff) {
  const Rig rig;
  const std::string answer = rig.ask("/within", "/fine");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK")) << answer;
  EXPECT_TRUE(answer.ends_with("5\r\npiece\r\n")) << "no end of the body: " << answer;
}

TEST(HttpOutOfMemory, BehindTheAnswerHarmsNothing) {
  const Rig rig;
  const std::string answer = rig.ask("/done", "/fine");
  EXPECT_EQ(answer.find("503"), std::string::npos) << answer;
  size_t fine = 0;
  for (size_t at = 0; (at = answer.find("fine", at)) != std::string::npos; ++at) ++fine;
  EXPECT_EQ(fine, 2u);
}

}  // namespace
}  // namespace heddle::server
