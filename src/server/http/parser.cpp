#include "server/http/parser.h"

#include <algorithm>

namespace heddle::server {
namespace {

constexpr size_t kMethodBytes = 32;
constexpr size_t kChunkLineBytes = 256;

bool is_token_char(char c) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         kOthers.find(c) != std::string_view::npos;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string lowered(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), lower);
  return result;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Whether a comma-separated list names the token, in any case.
bool lists(std::string_view list, std::string_view token) {
  while (true) {
    const size_t comma = list.find(',');
    if (lowered(trimmed(list.substr(0, comma))) == token) return true;
    if (comma == std::string_view::npos) return false;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace

std::string_view status_phrase(int status) {
  switch (status) {
    case 100:
      return "Continue";
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    default:
      return "Status";
  }
}

bool HttpRequestParser::fail(int status, std::string message) {
  failure_ = {status, std::move(message)};
  state_ = State::failed;
  keep_alive_ = false;
  return false;
}

size_t HttpRequestParser::feed(std::string_view bytes) {
  size_t used = 0;
  while (used < bytes.size() && (state_ == State::head || state_ == State::body)) {
    const auto rest = bytes.substr(used);
    used += state_ == State::head ? feed_head(rest)
            : chunked_            ? feed_chunked(rest)
                                  : feed_body(rest);
  }
  return used;
}

size_t HttpRequestParser::feed_head(std::string_view bytes) {
  constexpr std::string_view kEnd = "\r\n\r\n";
  const size_t before = head_.size();
  const auto limit = static_cast<size_t>(limits_.head_bytes);
  head_.append(bytes.substr(0, limit + kEnd.size() - std::min(before, limit)));
  if (head_ == "\r") return 1 - before;
  if (head_.starts_with("\r\n")) {  // left behind by some clients after a body
    head_.clear();
    return 2 - before;
  }
  if (!is_token_char(head_[0])) {
    fail(400, "this is not HTTP");
    return bytes.size();
  }
  // A blank line ends the head; look for it where it may have been cut. What follows is the body's.
  const size_t end = head_.find(kEnd, before < kEnd.size() ? 0 : before - kEnd.size() + 1);
  for (size_t i = before; i < std::min(end, head_.size()); ++i) {
    if (head_[i] != '\n' || head_[i - 1] == '\r') continue;
    fail(400, "a line of the head does not end in CR LF");
    return bytes.size();
  }
  const size_t line_end = head_.find("\r\n");
  const size_t line = std::min(line_end, head_.size());
  if (line > static_cast<size_t>(limits_.target_bytes) + kMethodBytes + 16) {
    fail(414, fmt::format("the request line has more than {} bytes",
                          limits_.target_bytes + int64_t{kMethodBytes}));
    return bytes.size();
  }
  // As large with its end here as where the end was still to come.
  if (end == std::string::npos ? head_.size() >= limit : end + kEnd.size() > limit) {
    fail(431, fmt::format("request line and headers have more than {} bytes", limit));
    return bytes.size();
  }
  if (end == std::string::npos) return head_.size() - before;
  const size_t used = end + kEnd.size() - before;
  head_.resize(end + 2);
  parse_head(head_);
  return used;
}

void HttpRequestParser::parse_head(std::string_view head) {
  bool first = true;
  while (!head.empty()) {
    const size_t end = head.find("\r\n");
    const auto text = head.substr(0, end);
    head.remove_prefix(end + 2);
    if (!(first ? parse_request_line(text) : parse_header(text))) return;
    first = false;
  }
  if (!decide_connection() || !decide_body()) return;
  state_ = !chunked_ && left_ == 0 ? State::done : State::body;
}

bool HttpRequestParser::parse_request_line(std::string_view line) {
  const char* expected = "the request line is not METHOD TARGET HTTP/1.1";
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last || first > kMethodBytes)
    return fail(400, expected);
  const auto method = line.substr(0, first);
  const auto version = line.substr(last + 1);
  if (!is_token(method)) return fail(400, expected);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return fail(400, expected);
  request_.method = method;
  request_.minor_version = version.back() - '0';
  return parse_target(line.substr(first + 1, last - first - 1));
}

bool HttpRequestParser::parse_target(std::string_view target) {
  if (target.size() > static_cast<size_t>(limits_.target_bytes))
    return fail(414, fmt::format("the target has {} bytes, at most {} are expected", target.size(),
                                 limits_.target_bytes));
  if (!std::all_of(target.begin(), target.end(), [](char c) { return c > 0x20 && c < 0x7f; }))
    return fail(400, "the target has characters that no target may have");
  if (lowered(target.substr(0, 7)) == "http://") {  // absolute form, as proxies send it
    const size_t path = target.find('/', 7);
    target = path == std::string_view::npos ? "/" : target.substr(path);
  }
  if (!target.starts_with('/') && !(target == "*" && request_.method == "OPTIONS"))
    return fail(400, "the target does not begin with /");
  const size_t question = target.find('?');
  if (question != std::string_view::npos) request_.query = target.substr(question + 1);
  const auto path = target.substr(0, question);
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] != '%') {
      request_.path += path[i];
      continue;
    }
    const int high = i + 2 < path.size() ? hex_digit(path[i + 1]) : -1;
    const int low = i + 2 < path.size() ? hex_digit(path[i + 2]) : -1;
    const int value = high * 16 + low;
    if (high < 0 || low < 0 || value < 0x20 || value == 0x7f)
      return fail(400, "the target has a bad percent escape");
    request_.path += static_cast<char>(value);
    i += 2;
  }
  return true;
}

bool HttpRequestParser::parse_header(std::string_view line) {
  if (static_cast<int64_t>(request_.headers.size()) >= limits_.header_count)
    return fail(431, fmt::format("there are more than {} headers", limits_.header_count));
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon)))
    return fail(400, "a header line is not NAME: VALUE");
  const auto value = trimmed(line.substr(colon + 1));
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\t') || byte == 0x7f)
      return fail(400, "a header value has control characters");
  }
  std::string name = lowered(line.substr(0, colon));
  for (const char* once :
       {"host", "content-length", "transfer-encoding", "content-type", "authorization", "expect"})
    if (name == once && request_.header(name) != nullptr)
      return fail(400, fmt::format("the header {} is there twice", name));
  request_.headers.emplace_back(std::move(name), std::string(value));
  return true;
}

bool HttpRequestParser::decide_connection() {
  const std::string* host = request_.header("host");
  if (host == nullptr && request_.minor_version == 1)
    return fail(400, "HTTP/1.1 requires a Host header");
  if (host != nullptr && host->find_first_of(" \t/@?#\\") != std::string::npos)
    return fail(400, "the Host header is no host");
  keep_alive_ = request_.minor_version == 1;
  for (const auto& [name, value] : request_.headers) {
    if (name != "connection") continue;
    if (lists(value, "close"))
      keep_alive_ = false;
    else if (lists(value, "keep-alive"))
      keep_alive_ = true;
  }
  if (const std::string* expect = request_.header("expect")) {
    if (lowered(*expect) != "100-continue")
      return fail(417, "Expect: only 100-continue can be met");
    expects_continue_ = request_.minor_version == 1;
  }
  return true;
}

bool HttpRequestParser::decide_body() {
  const std::string* length = request_.header("content-length");
  const std::string* coding = request_.header("transfer-encoding");
  if (coding != nullptr) {
    if (length != nullptr)
      return fail(400, "both Content-Length and Transfer-Encoding: the length is in doubt");
    if (request_.minor_version == 0 || lowered(*coding) != "chunked")
      return fail(400, "Transfer-Encoding: only chunked is understood, in HTTP/1.1");
    chunked_ = true;
    return true;
  }
  if (length == nullptr) return true;
  if (length->empty() || length->find_first_not_of("0123456789") != std::string::npos)
    return fail(400, "Content-Length is not a number");
  // More digits than any limit has: too large whatever they are.
  const size_t zeros = std::min(length->find_first_not_of('0'), length->size());
  for (const char c : length->size() - zeros > 15 ? std::string("999999999999999") : *length)
    left_ = left_ * 10 + (c - '0');
  if (left_ > limits_.body_bytes)
    return fail(413, fmt::format("the body has {} bytes, at most {} are expected", *length,
                                 limits_.body_bytes));
  return true;
}

size_t HttpRequestParser::feed_body(std::string_view bytes) {
  const auto take =
      static_cast<size_t>(std::min<int64_t>(left_, static_cast<int64_t>(bytes.size())));
  request_.body.append(bytes.substr(0, take));
  left_ -= static_cast<int64_t>(take);
  if (left_ == 0) state_ = State::done;
  return take;
}

// One line of the chunked coding is complete in line_, without its end.
bool HttpRequestParser::chunk_line() {
  if (chunk_ == Chunk::trailer) {  // trailers are dropped
    if (line_.empty()) state_ = State::done;
    return true;
  }
  const auto digits = std::string_view(line_).substr(0, line_.find(';'));
  const auto size = trimmed(digits);
  if (size.empty() || size.size() > 12) return fail(400, "a chunk has no size");
  left_ = 0;
  for (const char c : size) {
    if (hex_digit(c) < 0) return fail(400, "the size of a chunk is no hexadecimal number");
    left_ = left_ * 16 + hex_digit(c);
  }
  if (left_ + static_cast<int64_t>(request_.body.size()) > limits_.body_bytes)
    return fail(413, fmt::format("the body has more than {} bytes", limits_.body_bytes));
  chunk_ = left_ == 0 ? Chunk::trailer : Chunk::data;
  return true;
}

size_t HttpRequestParser::feed_chunked(std::string_view bytes) {
  if (chunk_ == Chunk::data) {
    const auto take =
        static_cast<size_t>(std::min<int64_t>(left_, static_cast<int64_t>(bytes.size())));
    request_.body.append(bytes.substr(0, take));
    left_ -= static_cast<int64_t>(take);
    if (left_ == 0) chunk_ = Chunk::data_end;
    return take;
  }
  size_t used = 0;
  while (used < bytes.size()) {
    const char c = bytes[used++];
    ++trailer_bytes_;
    if (c != '\n') {
      line_ += c;
      if (line_.size() > kChunkLineBytes) {
        fail(400, "a line of the chunked coding is too long");
        return used;
      }
      continue;
    }
    if (!line_.ends_with('\r')) {
      fail(400, "a line of the chunked coding does not end in CR LF");
      return used;
    }
    line_.pop_back();
    // Many empty-handed lines are no body: as much as a head may have, and one for 16 bytes of
    // body.
    if (trailer_bytes_ > limits_.head_bytes + static_cast<int64_t>(request_.body.size())) {
      fail(400, "the chunked coding has more lines than data");
      return used;
    }
    if (chunk_ == Chunk::data_end) {
      if (!line_.empty()) fail(400, "a chunk is longer than its size");
      chunk_ = Chunk::size;
    } else {
      chunk_line();
    }
    line_.clear();
    return used;
  }
  return used;
}

}  // namespace heddle::server
