#pragma once
// The HTTP port: OpenAI-compatible endpoints over one engine. A connection has a thread; requests
// run together in the engine's batch. A client that goes away frees its place within one step.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/http/listener.h"
#include "server/request_log.h"
#include "serving/generation.h"

namespace heddle::server {

struct ServerOptions {
  HttpListenerOptions http;
  std::vector<std::string> api_keys;  // empty: open to everybody who reaches the port
  bool shared_cache = false;          // cached prefixes are shared between keys
  int64_t default_max_tokens = 4096;
  std::chrono::milliseconds request_timeout{600'000};
  // Every request but health checks and scrapes; called from several threads.
  std::function<void(const RequestRecord&)> log;
};

class HttpServer {
 public:
  HttpServer(const serving::ModelHandle& model, ServerOptions options);
  ~HttpServer();

  // Takes the port; port() is then the real one.
  Status bind();
  int port() const;
  // Serves until stop(). Call from one thread.
  void serve();
  // Running answers get up to `limit`; meanwhile /health says 503 "draining" and new requests are
  // refused. Then ends serve(). Call from another thread than serve().
  void stop(std::chrono::milliseconds limit);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace heddle::server
