#pragma once
// One client's connection, served by one thread: requests are read within limits and deadlines,
// handed to a handler, and answered whole or as a stream.
#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "server/http/message.h"
#include "server/http/socket.h"

namespace heddle::server {

struct HttpTimeouts {
  std::chrono::milliseconds head{10'000};        // from its first byte to its last
  std::chrono::milliseconds body{60'000};        // likewise
  std::chrono::milliseconds keep_alive{60'000};  // between two requests
  std::chrono::milliseconds write{30'000};       // without progress
};

// A request and the way back to its client. Used by the connection's thread, but for on_gone.
class HttpExchange {
 public:
  HttpExchange(const HttpRequest& request, int fd, const HttpTimeouts& timeouts, bool keep_alive)
      : request_(request), fd_(fd), timeouts_(timeouts), keep_alive_(keep_alive) {}

  const HttpRequest& request() const { return request_; }

  // A whole answer. False: the client is gone.
  bool respond(const HttpResponse& response);
  // A streamed one: begin, then pieces, then finish. Without finish() the client sees it broken
  // off.
  bool begin(const std::string& content_type);
  bool write(std::string_view piece);
  bool finish();

  // It hung up, or a write failed. What is written to a client that only closed its sending half
  // still reaches it.
  bool gone() const { return gone_.load() || broken_; }
  // The last write ended because the client does not read.
  bool stalled() const { return stalled_; }
  int status() const { return status_; }  // 0: nothing was sent
  bool keep_alive() const { return keep_alive_; }
  void close_after() { keep_alive_ = false; }

  // For the handler: done() need not tell of this request any more.
  void set_logged() { logged_ = true; }
  bool logged() const { return logged_; }

  // Called once from another thread when the client hangs up; set before the handler waits.
  void on_gone(std::function<void()> callback);

 private:
  friend class HttpConnection;
  void mark_gone();
  // When memory ran out: what has begun is broken off, else `answer` is all there is.
  void give_up(std::string_view answer);
  bool send(std::string_view bytes);
  std::string head(int status, const std::string& content_type, const HttpHeaders& headers) const;

  const HttpRequest& request_;
  int fd_;
  const HttpTimeouts& timeouts_;
  bool keep_alive_;
  bool chunked_ = false;
  bool stalled_ = false;
  bool broken_ = false;
  bool begun_ = false;  // something was sent
  bool logged_ = false;
  int status_ = 0;
  std::atomic<bool> gone_{false};
  std::mutex callback_mutex_;
  std::function<void()> callback_;
};

// What answers. Called from the threads of all connections.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Looks at a head before the body is read; an answer here refuses the request.
  virtual std::optional<HttpResponse> check(const HttpRequest& head) = 0;
  virtual void handle(HttpExchange& exchange) = 0;
  // How a refusal by HTTP itself looks.
  virtual HttpResponse refusal(const HttpFailure& failure) = 0;
  // The whole answer, head and body, where there is no memory to make one. It ends the connection.
  virtual std::string_view out_of_memory() const = 0;
  // After every exchange; request().path is empty if it was no HTTP.
  virtual void done(const HttpExchange& exchange) = 0;
};

class HttpConnection {
 public:
  HttpConnection(int fd, std::string peer, bool over_capacity, const HttpLimits& limits,
                 const HttpTimeouts& timeouts, HttpHandler& handler, HangupWatcher& watcher)
      : fd_(fd),
        peer_(std::move(peer)),
        over_capacity_(over_capacity),
        limits_(limits),
        timeouts_(timeouts),
        handler_(handler),
        watcher_(watcher) {}

  // Until the client or stop() ends it. The socket stays open for its owner to close.
  void run();
  // From another thread: no further request; a connection that waits for one ends at once.
  void stop();
  // From another thread: ends it wherever it is.
  void abort();

 private:
  bool serve_one(bool first);
  void answer(HttpExchange& exchange, const std::optional<HttpResponse>& refused);

  int fd_;
  std::string peer_;
  bool over_capacity_;
  const HttpLimits& limits_;
  const HttpTimeouts& timeouts_;
  HttpHandler& handler_;
  HangupWatcher& watcher_;
  std::string unread_;  // bytes of the next request that came with the last one
  std::atomic<bool> stopping_{false};
  std::atomic<bool> idle_{false};
};

}  // namespace heddle::server
