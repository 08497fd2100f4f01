#pragma once
// What HTTP says, without sockets: requests as parsed, answers as written, and the limits on both.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace heddle::server {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;       // percent-decoded, without the query
  std::string query;      // as sent
  int minor_version = 1;  // HTTP/1.x
  HttpHeaders headers;    // names in lower case, values trimmed
  std::string body;
  std::string peer;            // address of the client
  bool over_capacity = false;  // its connection is one too many: only a word is left for it

  // The value of a header, by its name in lower case; null without it.
  const std::string* header(std::string_view name) const {
    for (const auto& [key, value] : headers)
      if (key == name) return &value;
    return nullptr;
  }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  HttpHeaders headers;
  std::string body;
};

// A request that HTTP itself refuses. 408, 413, 414, 417, 431, else 400.
struct HttpFailure {
  int status = 400;
  std::string message;
};

struct HttpLimits {
  int64_t target_bytes = 4096;
  int64_t head_bytes = 16 << 10;  // request line and headers
  int64_t header_count = 100;
  int64_t body_bytes = 16 << 20;
};

std::string_view status_phrase(int status);

}  // namespace heddle::server
