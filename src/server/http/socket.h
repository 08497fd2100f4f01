#pragma once
// Sockets as the server uses them: never blocking, every wait with a deadline.
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/result.h"

namespace heddle::server {

using Clock = std::chrono::steady_clock;

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { reset(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

enum class IoResult : uint8_t { ok, closed, timeout };

// Waits until something can be read.
IoResult wait_readable(int fd, Clock::time_point deadline);
// Appends what has come, at least one byte.
IoResult read_some(int fd, std::string& out, Clock::time_point deadline);
// Writes everything; `patience` is the longest time without progress.
IoResult write_all(int fd, std::string_view bytes, std::chrono::milliseconds patience);
// Reads and drops until the client closes, so that it sees the last answer rather than a reset.
void drain_input(int fd, Clock::time_point deadline);

struct ListeningSocket {
  FileDescriptor fd;
  int port = 0;
};
// Port 0: any free one.
Result<ListeningSocket> listen_on(const std::string& host, int port);
// Makes an accepted socket ready for use; returns the client's address.
std::string prepare_client(int fd);

// An event that poll() can wait for beside sockets.
class WakeEvent {
 public:
  WakeEvent();
  void set();
  void clear();
  int fd() const { return fd_.get(); }

 private:
  FileDescriptor fd_;
};

// Tells at once when a client hangs up while nobody reads its socket. A client that only closes its
// sending half counts as gone: it cannot be told apart from one that is.
class HangupWatcher {
 public:
  HangupWatcher();
  ~HangupWatcher();

  // on_hangup runs once, on the watcher's thread, and must not block; not after forget() returned.
  uint64_t watch(int fd, std::function<void()> on_hangup);
  void forget(uint64_t id, int fd);

 private:
  void loop();

  FileDescriptor epoll_;
  WakeEvent stop_;
  std::mutex mutex_;
  uint64_t next_id_ = 1;
  std::unordered_map<uint64_t, std::function<void()>> watched_;
  std::thread thread_;
};

// Watched as long as it lives.
class HangupWatch {
 public:
  HangupWatch(HangupWatcher& watcher, int fd, std::function<void()> on_hangup)
      : watcher_(watcher), fd_(fd), id_(watcher.watch(fd, std::move(on_hangup))) {}
  ~HangupWatch() { watcher_.forget(id_, fd_); }
  HangupWatch(const HangupWatch&) = delete;
  HangupWatch& operator=(const HangupWatch&) = delete;

 private:
  HangupWatcher& watcher_;
  int fd_;
  uint64_t id_;
};

}  // namespace heddle::server
