#include "server/http/parser.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace heddle::server {
namespace {

using State = HttpRequestParser::State;

// The status that a request is refused with; 0: it was taken, -1: more is expected.
int status_of(std::string_view bytes, const HttpLimits& limits = {}) {
  HttpRequestParser parser(limits);
  parser.feed(bytes);
  if (parser.state() == State::failed) return parser.failure().status;
  return parser.state() == State::done ? 0 : -1;
}

constexpr std::string_view kPost =
    "POST /v1/x%41?q=1 HTTP/1.1\r\nHost: a\r\nX-Thing:  v \r\nContent-Length: 5\r\n\r\nhello";

TEST(HttpParser, ReadsARequestHoweverItIsCut) {
  // Some clients leave an empty line behind.
  const std::string two = "\r\n" + std::string(kPost) + "GET / HTTP/1.1\r\nHost: b\r\n\r\n";
  Rng rng(1);
  for (int round = 0; round < 50; ++round) {
    HttpRequestParser parser{HttpLimits{}};
    size_t at = 0;
    while (parser.state() != State::done) {
      const auto take = std::min<size_t>(static_cast<size_t>(1 + rng.below(9)), two.size() - at);
      const size_t used = parser.feed(std::string_view(two).substr(at, take));
      ASSERT_NE(parser.state(), State::failed) << parser.failure().message;
      at += used;
    }
    EXPECT_EQ(at, 2 + kPost.size());  // the second request is left
    EXPECT_EQ(parser.request().path, "/v1/xA");
    EXPECT_EQ(parser.request().query, "q=1");
    EXPECT_EQ(*parser.request().header("x-thing"), "v");
    EXPECT_EQ(parser.request().body, "hello");
    EXPECT_TRUE(parser.keep_alive());
  }
}

TEST(HttpParser, ReadsChunks) {
  HttpRequestParser parser{HttpLimits{}};
  const std::string text =
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
      "chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n"
      "0\r\nTrailer: t\r\n\r\nrest";
  EXPECT_EQ(parser.feed(text), text.size() - 4);
  ASSERT_EQ(parser.state(), State::done);
  EXPECT_EQ(parser.request().body, "abc0123456789");
}

TEST(HttpParser, RefusesWhatTwoReadersCouldSeeDifferently) {
  const std::string get = "GET / HTTP/1.1\r\nHost: a\r\n";
  const std::string post = "POST / HTTP/1.1\r\nHost: a\r\n";
  EXPECT_EQ(status_of(get + "\r\n"), 0);
  EXPECT_EQ(status_of("GET / HTTP/1.1\nHost: a\n\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\n\r\n"), 400);  // no Host
  EXPECT_EQ(status_of("GET / HTTP/1.0\r\n\r\n"), 0);
  EXPECT_EQ(status_of(get + " folded\r\n\r\n"), 400);
  EXPECT_EQ(status_of(get + "Name : x\r\n\r\n"), 400);
  EXPECT_EQ(status_of(get + "Host: b\r\n\r\n"), 400);
  EXPECT_EQ(status_of(get + std::string("X: a\0b\r\n\r\n", 10)), 400);
  EXPECT_EQ(status_of(post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: +1\r\n\r\na"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: -1\r\n\r\na"), 400);
  EXPECT_EQ(status_of(post + "Content-Length: 99999999999999999999\r\n\r\n"), 413);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: gzip, chunked\r\n\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n-3\r\n"), 400);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n3\nabc"), 400);
  EXPECT_EQ(status_of(post + "Expect: a miracle\r\nContent-Length: 1\r\n\r\n"), 417);
  for (const char* line :
       {"GET  / HTTP/1.1", "GET /", "GET / HTTP/2.0", "GET x HTTP/1.1", "G@T / HTTP/1.1",
        "GET /%zz HTTP/1.1", "GET /%00 HTTP/1.1", "GET /\x7f HTTP/1.1", " GET / HTTP/1.1"})
    EXPECT_EQ(status_of(std::string(line) + "\r\nHost: a\r\n\r\n"), 400) << line;
  EXPECT_EQ(status_of("\x16\x03\x01\x02"), 400);  // TLS: refused at its first byte
}

TEST(HttpParser, HoldsNoMoreThanItsLimits) {
  HttpLimits limits;
  limits.body_bytes = 10;
  const std::string post = "POST / HTTP/1.1\r\nHost: a\r\n";
  EXPECT_EQ(status_of("GET /" + std::string(9000, 'a'), limits), 414);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nX: " + std::string(20000, 'a'), limits), 431);
  std::string many = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 101; ++i) many += "a: b\r\n";
  EXPECT_EQ(status_of(many + "\r\n", limits), 431);
  EXPECT_EQ(status_of(post + "Content-Length: 11\r\n\r\n", limits), 413);
  EXPECT_EQ(status_of(post + "Transfer-Encoding: chunked\r\n\r\n5\r\naaaaa\r\n6\r\n", limits), 413);
  // Chunks of nothing but words around them.
  std::string empty = post + "Transfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 200; ++i) empty += "1;" + std::string(200, 'x') + "\r\na\r\n";
  HttpLimits wide;
  EXPECT_EQ(status_of(empty, wide), 400);
}

TEST(HttpParser, ALimitIsTheSameHoweverTheHeadIsCut) {
  HttpLimits limits;
  limits.head_bytes = 200;
  for (int64_t size = 190; size <= 210; ++size) {
    const std::string start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    const std::string head =
        start + std::string(static_cast<size_t>(size) - start.size() - 4, 'x') + "\r\n\r\n";
    for (size_t piece = 1; piece <= head.size(); ++piece) {
      HttpRequestParser parser(limits);
      for (size_t at = 0; at < head.size() && parser.state() == State::head; at += piece)
        parser.feed(std::string_view(head).substr(at, piece));
      ASSERT_EQ(parser.state(), size <= 200 ? State::done : State::failed) << size << " " << piece;
      if (size > 200) ASSERT_EQ(parser.failure().status, 431);
    }
  }
}

TEST(HttpParser, TakesAnyBytes) {
  Rng rng(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text(kPost);
    for (int64_t change = rng.below(6); change >= 0; --change)
      text[static_cast<size_t>(rng.below(static_cast<int64_t>(text.size())))] =
          static_cast<char>(rng.below(256));
    HttpRequestParser parser{HttpLimits{}};
    size_t at = 0;
    while (at < text.size() && parser.state() != State::done && parser.state() != State::failed) {
      const size_t used = parser.feed(std::string_view(text).substr(at, 7));
      ASSERT_GT(used, 0u);
      at += used;
    }
    if (parser.state() == State::failed) {
      EXPECT_GE(parser.failure().status, 400);
      EXPECT_LT(parser.failure().status, 500);
    }
  }
}

}  // namespace
}  // namespace heddle::server
