#pragma once
// The HTTP port: OpenAI-compatible endpoints over one engine. A connection has a thread; requests
// run together in the engine's batch. A client that goes away frees its place within one step.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/generation.h"

namespace heddle::server {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                    // 0: any free port
  std::vector<std::string> api_keys;  // empty: open to everybody who reaches the port
  int64_t max_body_bytes = 16 << 20;
  int64_t max_connections = 128;  // connections served at once; others wait
  int64_t default_max_tokens = 4096;
  std::chrono::milliseconds request_timeout{600'000};
  // One line a request; called from several threads.
  std::function<void(const std::string& line)> log;
};

class HttpServer {
 public:
  HttpServer(const ModelHandle& model, ServerOptions options);
  ~HttpServer();

  // Takes the port; port() is then the real one.
  Status bind();
  int port() const;
  // Serves until stop(). Call from one thread.
  void serve();
  // Ends serve(): no new connections; running answers get up to `limit`. Safe to call from another
  // thread.
  void stop(std::chrono::milliseconds limit);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace heddle::server
