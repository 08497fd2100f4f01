#include "server/page.h"

namespace heddle::server {

const PageFile* find_page(std::string_view path) {
  constexpr std::string_view kFolder = "/page/";
  std::string_view name;
  if (path == "/") {
    name = "index.html";
  } else if (path.starts_with(kFolder) && path != "/page/index.html") {
    name = path.substr(kFolder.size());
  }
  for (const PageFile& file : page_files())
    if (file.name == name) return &file;
  return nullptr;
}

std::string_view page_content_type(const PageFile& file) {
  if (file.name.ends_with(".html")) return "text/html; charset=utf-8";
  if (file.name.ends_with(".css")) return "text/css; charset=utf-8";
  if (file.name.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (file.name.ends_with(".svg")) return "image/svg+xml";
  return "application/octet-stream";
}

std::span<const HeaderLine> page_headers() {
  static constexpr HeaderLine kHeaders[] = {
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "
       "'self'; "
       "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
       "require-trusted-types-for 'script'; trusted-types 'none'"},
      {"X-Content-Type-Options", "nosniff"},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Opener-Policy", "same-origin"},
      {"Cache-Control", "no-cache"},
  };
  return kHeaders;
}

}  // namespace heddle::server
