#include "base/write_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace heddle {
namespace {

std::string system_error() { return std::strerror(errno); }

Status write_all(int file, std::span<const std::byte> bytes, const std::string& path,
                 std::string_view what) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return fail("{}: cannot write {}: {}", path, what, system_error());
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  if (::fsync(file) != 0) return fail("{}: cannot flush {}: {}", path, what, system_error());
  return {};
}

}  // namespace

Status write_file(const std::string& path, std::span<const std::byte> bytes,
                  std::string_view what) {
  std::string temporary = fmt::format("{}.XXXXXX", path);
  const int file = ::mkstemp(temporary.data());
  if (file < 0) return fail("{}: cannot create {}: {}", path, what, system_error());
  Status status = write_all(file, bytes, temporary, what);
  if (::close(file) != 0 && status)
    status = fail("{}: cannot close {}: {}", temporary, what, system_error());
  if (status && ::rename(temporary.c_str(), path.c_str()) != 0)
    status = fail("{}: cannot rename {}: {}", path, what, system_error());
  if (!status) {
    ::unlink(temporary.c_str());
    return status;
  }
  // The rename itself must survive a crash too.
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const int directory =
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    ::fsync(directory);
    ::close(directory);
  }
  return {};
}

}  // namespace heddle
