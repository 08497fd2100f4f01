#pragma once
// Takes connections and gives each a thread, up to a limit.
#include <atomic>
#include <chrono>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "server/http/connection.h"

namespace heddle::server {

struct HttpListenerOptions {
  std::string host = "127.0.0.1";
  int port = 0;                   // 0: any free one
  int64_t max_connections = 256;  // beyond them a few more are told so, the rest are closed
  HttpLimits limits;
  HttpTimeouts timeouts;
};

class HttpListener {
 public:
  HttpListener(HttpListenerOptions options, HttpHandler& handler);
  ~HttpListener();

  Status bind();
  int port() const { return socket_.port; }
  // Takes connections until stop(), and returns when the last one has ended.
  void serve();
  // From another thread: no new connections; those that wait for a request end, those that answer
  // get up to `limit`.
  void stop(std::chrono::milliseconds limit);

  int64_t connections() const { return open_.load(); }
  int64_t turned_away() const { return turned_away_.load(); }

 private:
  struct Client {
    FileDescriptor fd;
    std::unique_ptr<HttpConnection> connection;
    std::thread thread;
    std::atomic<bool> done{false};
  };

  void accept_one();
  void start(Client& client, int fd, bool over_capacity);
  void reap();
  void end_all();

  HttpListenerOptions options_;
  HttpHandler& handler_;
  ListeningSocket socket_;
  HangupWatcher watcher_;
  WakeEvent wake_;  // a connection has ended, or stop() was called
  std::mutex mutex_;
  std::list<Client> clients_;
  bool stopping_ = false;
  Clock::time_point end_by_;
  std::atomic<int64_t> open_{0};
  std::atomic<int64_t> turned_away_{0};
};

}  // namespace heddle::server
