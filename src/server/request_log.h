#pragma once
// What is said about a request once it is over: one line of text, or one JSON object.
#include <cstdint>
#include <string>

#include "engine/request.h"

namespace heddle::server {

struct RequestRecord {
  std::string method;
  std::string path;
  std::string peer;
  int status = 0;  // 0: the client left before an answer
  // Of requests that reached the engine; the rest have no id.
  std::string id;
  std::string outcome;  // stop, length, disconnected, slow_reader, timeout, shutting_down, error
  int64_t choices = 0;
  engine::Usage usage;
  double seconds = 0;
};

// tok/s of what was read and of what was written.
std::string record_text(const RequestRecord& record);
std::string record_json(const RequestRecord& record);

}  // namespace heddle::server
