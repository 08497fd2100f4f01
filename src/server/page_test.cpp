#include "server/page.h"

#include <gtest/gtest.h>

#include <string>

namespace heddle::server {
namespace {

TEST(Page, FindsItsFilesAndNothingElse) {
  ASSERT_NE(find_page("/"), nullptr);
  EXPECT_NE(find_page("/")->content.find("<!doctype html>"), std::string_view::npos);
  ASSERT_NE(find_page("/page/app.js"), nullptr);
  EXPECT_EQ(page_content_type(*find_page("/page/app.js")), "text/javascript; charset=utf-8");
  for (const char* path : {"", "/page/", "/page", "/page/index.html", "/page/../index.html",
                           "/app.js", "//", "/page/app.js/", "/page//app.js"})
    EXPECT_EQ(find_page(path), nullptr) << path;
}

// Every file that one of them names is there, and none is of another place: the page works without
// a network, and its policy forbids inline scripts and styles anyway.
TEST(Page, IsWholeAndItsOwn) {
  for (const PageFile& file : page_files()) {
    const std::string text(file.content);
    EXPECT_FALSE(text.empty()) << file.name;
    if (!file.name.ends_with(".html")) continue;
    for (size_t at = text.find("page/"); at != std::string::npos; at = text.find("page/", at + 1)) {
      const std::string path = "/" + text.substr(at, text.find('"', at) - at);
      EXPECT_NE(find_page(path), nullptr) << path;
    }
    EXPECT_EQ(text.find("style="), std::string::npos);
    EXPECT_EQ(text.find("://"), std::string::npos);
  }
  for (const PageFile& file : page_files())
    for (const char* sink :
         {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("})
      EXPECT_EQ(file.content.find(sink), std::string_view::npos) << file.name << " uses " << sink;
}

TEST(Page, ItsPolicyIsStrict) {
  std::string policy;
  for (const HeaderLine& header : page_headers())
    if (std::string(header.name) == "Content-Security-Policy") policy = header.value;
  EXPECT_TRUE(policy.starts_with("default-src 'none'")) << policy;
  EXPECT_EQ(policy.find("unsafe"), std::string::npos) << policy;
}

}  // namespace
}  // namespace heddle::server
