// What a client sends: the bytes of HTTP, and the bodies of every endpoint. Any bytes must end in a
// request or a refusal. The first byte chooses the parser.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "server/api/api.h"
#include "server/http/parser.h"

namespace {

void require(bool truth) {
  if (!truth) std::abort();
}

// However it is cut, a request is the same, and so is a refusal.
void parse_http(std::string_view bytes) {
  using heddle::server::HttpRequestParser;
  heddle::server::HttpLimits limits;
  limits.body_bytes = 1 << 16;
  HttpRequestParser whole(limits);
  const size_t used = whole.feed(bytes);
  require(used <= bytes.size());
  HttpRequestParser cut(limits);
  size_t at = 0;
  while (at < bytes.size() && (cut.state() == HttpRequestParser::State::head ||
                               cut.state() == HttpRequestParser::State::body)) {
    const size_t taken = cut.feed(bytes.substr(at, 3));
    require(taken > 0);
    at += taken;
  }
  // A proxy that cuts otherwise may not see a request where this server sees none, or the other way
  // round.
  require(cut.state() == whole.state());
  if (whole.state() == HttpRequestParser::State::failed)
    require(whole.failure().status >= 400 && whole.failure().status < 500);
  if (whole.state() != HttpRequestParser::State::done) return;
  require(at == used);
  require(cut.request().body == whole.request().body);
  require(cut.request().path == whole.request().path);
  require(cut.request().headers == whole.request().headers);
}

template <class T>
void check_refusal(const heddle::server::ApiResult<T>& parsed) {
  if (parsed) return;
  require(parsed.error().status >= 400 && parsed.error().status < 500);
  require(!parsed.error().message.empty());
  require(!heddle::server::error_body(parsed.error()).empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heddle::server;
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
      parse_http(body);
      break;
    case 1:
      check_refusal(parse_chat_request(body, {}));
      break;
    case 2:
      check_refusal(parse_completion_request(body, {}));
      break;
    case 3:
      check_refusal(parse_tokenize_request(body));
      break;
    case 4:
      check_refusal(parse_detokenize_request(body));
      break;
  }
  return 0;
}
