#pragma once
// Bytes to one HTTP/1 request (RFC 9112), as they come. Strict where leniency lets two readers of
// one stream see different requests: bare line feeds, folded lines, doubled or doubtful lengths are
// refused. Holds at most limits.head_bytes + limits.body_bytes.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "server/http/message.h"

namespace heddle::server {

class HttpRequestParser {
 public:
  enum class State : uint8_t { head, body, done, failed };

  explicit HttpRequestParser(const HttpLimits& limits) : limits_(limits) {}

  // Takes what belongs to this request and returns how many bytes that was; the rest begins the
  // next one. Nothing is taken once it is done or failed.
  size_t feed(std::string_view bytes);

  State state() const { return state_; }
  bool begun() const { return !head_.empty() || state_ != State::head; }
  // The head is complete from state body on; the body from state done on.
  HttpRequest& request() { return request_; }
  const HttpFailure& failure() const { return failure_; }  // in state failed
  // The client waits for "100 Continue" before it sends the body.
  bool expects_continue() const { return expects_continue_; }
  // The connection may serve another request after this one.
  bool keep_alive() const { return keep_alive_ && state_ == State::done; }

 private:
  enum class Chunk : uint8_t { size, data, data_end, trailer };

  size_t feed_head(std::string_view bytes);
  size_t feed_body(std::string_view bytes);
  size_t feed_chunked(std::string_view bytes);
  bool chunk_line();
  void parse_head(std::string_view head);
  bool parse_request_line(std::string_view line);
  bool parse_target(std::string_view target);
  bool parse_header(std::string_view line);
  bool decide_body();
  bool decide_connection();
  bool fail(int status, std::string message);

  HttpLimits limits_;
  State state_ = State::head;
  HttpRequest request_;
  HttpFailure failure_;
  std::string head_;
  std::string line_;  // of the chunked coding, while incomplete
  Chunk chunk_ = Chunk::size;
  int64_t left_ = 0;           // bytes of the body, or of the chunk, still to come
  int64_t trailer_bytes_ = 0;  // and of sizes with their extensions
  bool chunked_ = false;
  bool expects_continue_ = false;
  bool keep_alive_ = true;
};

}  // namespace heddle::server
