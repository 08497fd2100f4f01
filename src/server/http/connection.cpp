#include "server/http/connection.h"

#include <sys/socket.h>

#include <algorithm>

#include "base/memory_reserve.h"
#include "server/http/parser.h"

namespace heddle::server {
namespace {

// How long a client may go on sending a request that has been refused already.
constexpr auto kLinger = std::chrono::seconds(2);

// For one connection too many.
constexpr std::chrono::milliseconds kShortHead{2000};

}  // namespace

std::string HttpExchange::head(int status, const std::string& content_type,
                               const HttpHeaders& headers) const {
  std::string text = fmt::format("HTTP/1.1 {} {}\r\n", status, status_phrase(status));
  if (!content_type.empty()) text += fmt::format("Content-Type: {}\r\n", content_type);
  for (const auto& [name, value] : headers) text += fmt::format("{}: {}\r\n", name, value);
  if (!keep_alive_)
    text += "Connection: close\r\n";
  else if (request_.minor_version == 0)
    text += "Connection: keep-alive\r\n";
  return text;
}

bool HttpExchange::send(std::string_view bytes) {
  if (broken_) return false;
  begun_ = true;
  const IoResult result = write_all(fd_, bytes, timeouts_.write);
  if (result == IoResult::ok) return true;
  stalled_ = result == IoResult::timeout;
  keep_alive_ = false;
  broken_ = true;
  return false;
}

bool HttpExchange::respond(const HttpResponse& response) {
  status_ = response.status;
  std::string bytes = head(response.status, response.content_type, response.headers);
  bytes += fmt::format("Content-Length: {}\r\n\r\n", response.body.size());
  if (request_.method != "HEAD") bytes += response.body;
  return send(bytes);
}

bool HttpExchange::begin(const std::string& content_type) {
  status_ = 200;
  chunked_ = request_.minor_version == 1;
  if (!chunked_) keep_alive_ = false;
  std::string bytes = head(200, content_type, {{"Cache-Control", "no-cache"}});
  bytes += chunked_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
  return send(bytes);
}

bool HttpExchange::write(std::string_view piece) {
  if (piece.empty()) return !broken_;
  if (!chunked_) return send(piece);
  return send(fmt::format("{:x}\r\n{}\r\n", piece.size(), piece));
}

bool HttpExchange::finish() { return chunked_ ? send("0\r\n\r\n") : !broken_; }

void HttpExchange::give_up(std::string_view answer) {
  keep_alive_ = false;
  if (begun_) return;
  status_ = 503;
  send(answer);
}

void HttpExchange::on_gone(std::function<void()> callback) {
  std::lock_guard lock(callback_mutex_);
  callback_ = std::move(callback);
  if (gone() && callback_) callback_();
}

void HttpExchange::mark_gone() {
  std::lock_guard lock(callback_mutex_);
  gone_.store(true);
  if (callback_) callback_();
}

void HttpConnection::run() {
  try {
    for (bool first = true; serve_one(first); first = false) {
    }
  } catch (const std::bad_alloc&) {  // while a request was read
    keep_memory_back();
    (void)write_all(fd_, handler_.out_of_memory(), timeouts_.write);
    drain_input(fd_, Clock::now() + kLinger);
  }
  ::shutdown(fd_, SHUT_RDWR);
}

void HttpConnection::stop() {
  stopping_.store(true);
  if (idle_.load()) ::shutdown(fd_, SHUT_RDWR);
}

void HttpConnection::abort() {
  stopping_.store(true);
  ::shutdown(fd_, SHUT_RDWR);
}

bool HttpConnection::serve_one(bool first) {
  const auto head_limit = over_capacity_ ? std::min(timeouts_.head, kShortHead) : timeouts_.head;
  const auto patience = first ? head_limit : timeouts_.keep_alive;
  if (unread_.empty()) {
    idle_.store(true);
    if (stopping_.load()) return false;
    const IoResult ready = wait_readable(fd_, Clock::now() + patience);
    idle_.store(false);
    if (ready != IoResult::ok) return false;
  }
  HttpRequestParser parser(limits_);
  std::optional<HttpResponse> refused;
  auto deadline = Clock::now() + head_limit;
  bool head_seen = false;
  while (parser.state() != HttpRequestParser::State::done && !refused) {
    if (unread_.empty()) {
      const IoResult result = read_some(fd_, unread_, deadline);
      if (result == IoResult::closed) return false;
      if (result == IoResult::timeout) {
        const char* part = head_seen ? "body" : "head";
        if (!parser.begun()) return false;
        refused = handler_.refusal({408, fmt::format("the {} of the request took too long", part)});
        break;
      }
    }
    unread_.erase(0, parser.feed(unread_));
    if (parser.state() == HttpRequestParser::State::failed) {
      refused = handler_.refusal(parser.failure());
    } else if (!head_seen && parser.state() != HttpRequestParser::State::head) {
      head_seen = true;
      deadline = Clock::now() + timeouts_.body;
      parser.request().peer = peer_;
      parser.request().over_capacity = over_capacity_;
      refused = handler_.check(parser.request());
      if (!refused && parser.state() == HttpRequestParser::State::body &&
          parser.expects_continue() && unread_.empty() &&
          write_all(fd_, "HTTP/1.1 100 Continue\r\n\r\n", timeouts_.write) != IoResult::ok)
        return false;
    }
  }
  // A refusal of a request that has been read whole leaves the connection in order.
  const bool keep = parser.keep_alive() && !over_capacity_ && !stopping_.load();
  HttpExchange exchange(parser.request(), fd_, timeouts_, keep);
  answer(exchange, refused);
  if (exchange.gone()) return false;
  if (exchange.keep_alive()) return true;
  drain_input(fd_, Clock::now() + kLinger);
  return false;
}

void HttpConnection::answer(HttpExchange& exchange, const std::optional<HttpResponse>& refused) {
  try {
    if (refused) {
      exchange.respond(*refused);
    } else {
      const HangupWatch watch(watcher_, fd_, [&exchange] { exchange.mark_gone(); });
      handler_.handle(exchange);
    }
  } catch (const std::bad_alloc&) {
    keep_memory_back();
    exchange.give_up(handler_.out_of_memory());
  }
  try {
    handler_.done(exchange);
  } catch (const std::bad_alloc&) {  // one line of the log less
  }
}

}  // namespace heddle::server
